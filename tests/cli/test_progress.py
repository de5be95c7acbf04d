from __future__ import annotations

import io
import sys
import time

import pytest

from skipgraph_cli import progress as module
from skipgraph_cli.progress import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def seen_on(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch, *, seconds: float, quiet: bool = False) -> str:
    """What a block that lasts ``seconds`` shows, where the delay is a twentieth of one."""
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(module, "_DELAY_SECONDS", 0.05)
    with progress("Inspecting net", quiet=quiet):
        time.sleep(seconds)
    return stream.getvalue()


def test_shown_after_the_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Inspecting net" in seen_on(Terminal(), monkeypatch, seconds=0.5)


def test_silent_before_the_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    assert seen_on(Terminal(), monkeypatch, seconds=0) == ""


def test_silent_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert seen_on(Terminal(), monkeypatch, seconds=0.2, quiet=True) == ""


def test_silent_where_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert seen_on(io.StringIO(), monkeypatch, seconds=0.2) == ""
