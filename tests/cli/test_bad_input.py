"""Whatever is wrong with what the user gives: the right exit code, what is wrong, what to do, and no traceback."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.cli.conftest import COMMAND, Finished, run, run_alone

USAGE, MODEL, MISSING, INTERRUPTED, BROKEN_PIPE = 2, 3, 7, 130, 141
IMAGE = ("--input", "1x3x8x8")


def refused(done: Finished, code: int, *words: object) -> None:
    """Assert that a run ended with ``code`` and a short message that holds all ``words``."""
    assert done.code == code, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) <= 6
    assert done.stdout == ""
    for word in words:
        assert str(word) in done.stderr


# -- the model ---------------------------------------------------------------------------------------------------------


def test_no_such_file(tmp_path: Path) -> None:
    refused(run("inspect", tmp_path / "absent.py"), USAGE, "no such file", "absent.py", "Check the path")


def test_syntax_error(write) -> None:
    path = write("def f(:\n    pass", net=False)
    refused(run("inspect", path), USAGE, f"{path}:1", "syntax error", "Correct that line")


def test_no_module(write) -> None:
    path = write("def build():\n    return 3", net=False)
    refused(run("inspect", path), USAGE, "no torch.nn.Module", "call what you mean model", f"{path}:build")


def test_two_candidates(write) -> None:
    path = write("class Other(nn.Module): ...")
    refused(run("inspect", path), USAGE, "2 models: Net, Other", f"{path}:Other")


def test_constructor_that_needs_arguments(write) -> None:
    path = write("class Needy(nn.Module):\n    def __init__(self, width): super().__init__()")
    refused(run("inspect", f"{path}:Needy"), USAGE, "missing a required argument: 'width'", "Needy(width=…)")


def test_constructor_that_raises(write) -> None:
    path = write("class Odd(Net):\n    def __init__(self): raise ValueError('odd width')")
    refused(run("inspect", f"{path}:Odd", *IMAGE), MODEL, "ValueError: odd width", f"{path}:")


def test_state_dict_given_as_a_model(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.save(torch.nn.Linear(2, 2).state_dict(), path)
    refused(run("inspect", path), USAGE, "not the code of a model", f"--weights {path}")


def test_truncated_exported_program(tmp_path: Path) -> None:
    path = tmp_path / "net.pt2"
    torch.export.save(torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),)), path)
    path.write_bytes(path.read_bytes()[:-200])
    refused(run("inspect", path), USAGE, "not a whole archive", "torch.export.save")


def test_missing_extra() -> None:
    without_timm = "import sys; sys.modules['timm'] = None; from skipgraph_cli.main import app; app()"
    done = run_alone("inspect", "timm:resnet18", command=(sys.executable, "-c", without_timm))
    refused(done, MISSING, "timm is not installed", 'pip install "skipgraph[timm]"')


# -- its weights -------------------------------------------------------------------------------------------------------


def test_pickle(write, tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.save(torch.nn.Linear(2, 2), path)
    done = run("inspect", write(), *IMAGE, "--weights", path)
    refused(done, USAGE, "would run code", "torch.save(model.state_dict()")


def test_weights_that_do_not_fit(write, tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.save(torch.nn.Linear(2, 2).state_dict(), path)
    done = run("inspect", write(), *IMAGE, "--weights", path)
    refused(done, USAGE, "do not fit Net", "4 missing: first.weight", "2 unexpected: weight, bias", "as it was trained")


# -- its inputs --------------------------------------------------------------------------------------------------------


def test_input_of_the_wrong_rank(write) -> None:
    refused(run("inspect", write(), "--input", "2x1x3x8x8"), MODEL, "2x1x3x8x8", "conv2d", "Check the inputs")


def test_missing_second_input(write) -> None:
    path = write("class Two(Net):\n    def forward(self, x, skip): return x + skip")
    done = run("inspect", f"{path}:Two", *IMAGE)
    refused(done, MODEL, "'skip'", "1x3x8x8", "--input NAME=")


def test_unreadable_input(write) -> None:
    refused(run("inspect", write(), "--input", "1,3,8,8"), USAGE, "'1,3,8,8'", "1x3x224x224")


def test_data_dependent_control_flow(write) -> None:
    path = write("class Branch(Net):\n    def forward(self, x): return x if x.sum() > 0 else -x")
    refused(run("inspect", f"{path}:Branch", *IMAGE), MODEL, "depends on the data", "submodule of its own")


def test_forward_that_raises(write) -> None:
    path = write("class Broken(Net):\n    def forward(self, x): raise RuntimeError('no such mode')")
    refused(run("inspect", f"{path}:Broken", *IMAGE), MODEL, "RuntimeError: no such mode", "1x3x8x8")


# -- the output --------------------------------------------------------------------------------------------------------


def test_unknown_format(write) -> None:
    refused(run("inspect", write(), *IMAGE, "--format", "docx"), USAGE, "unknown format 'docx'", "Use one of", "table")


def test_file_exists(write, tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    path.write_text("precious")
    refused(run("inspect", write(), *IMAGE, "-o", path), USAGE, "exists", "--force")
    assert path.read_text() == "precious"


def test_no_directory(write, tmp_path: Path) -> None:
    refused(run("inspect", write(), *IMAGE, "-o", tmp_path / "absent" / "out.json"), USAGE, "no directory")


def _as_an_ordinary_user() -> None:
    """Take from root, in a child process, the right to ignore permissions."""
    drop_from_bounding_set, override, read_search = 24, 1, 2
    for capability in (override, read_search):
        ctypes.CDLL(None).prctl(drop_from_bounding_set, capability, 0, 0, 0)


@pytest.mark.skipif(sys.platform == "win32", reason="permissions are another matter there")
def test_no_write_permission(write, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    is_root = os.geteuid() == 0
    done = run_alone(
        "inspect", write(), *IMAGE, "-o", closed / "out.json", preexec_fn=_as_an_ordinary_user if is_root else None
    )
    refused(done, USAGE, "no permission to write", "Write elsewhere")
    assert list(closed.iterdir()) == []


def test_broken_pipe(write) -> None:
    with subprocess.Popen(
        [*COMMAND, "inspect", str(write()), *IMAGE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=120) == BROKEN_PIPE


def test_interrupted(write) -> None:
    path = write(
        """
        class Slow(Net):
            def forward(self, x):
                import sys, time
                print("ready", file=sys.stderr, flush=True)
                time.sleep(60)
                return x
        """
    )
    with subprocess.Popen(
        [*COMMAND, "inspect", f"{path}:Slow", *IMAGE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == "interrupted\n"
        assert process.wait(timeout=120) == INTERRUPTED
