from __future__ import annotations

import pytest
import typer

from skipgraph import errors
from skipgraph_cli.guard import guarded


def ended_by(error: BaseException) -> int:
    def command() -> None:
        raise error

    with pytest.raises(typer.Exit) as caught:
        guarded(command)()
    return caught.value.exit_code


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.SourceError, 2),
        (errors.InputError, 2),
        (errors.WeightsError, 2),
        (errors.OutputError, 2),
        (errors.BuildError, 3),
        (errors.CaptureError, 3),
        (errors.MissingDependencyError, 7),
    ],
)
def test_errors_of_ours(kind: type[errors.SkipgraphError], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert ended_by(kind("it is broken", "Mend it.")) == code
    assert capsys.readouterr().err == "error: it is broken\n  Mend it.\n"


def test_interrupt(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended_by(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_an_interrupt_that_was_taken_for_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    error = RuntimeError("Error calling __set_name__")
    error.__cause__ = KeyboardInterrupt()
    assert ended_by(error) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_internal_error_says_how_to_report_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended_by(ZeroDivisionError("oops")) == 1
    message = capsys.readouterr().err
    assert "internal error" in message
    assert "ZeroDivisionError: oops" in message
    assert "Please report it" in message
    assert "test_guard.py" in message  # the traceback is what a report needs
