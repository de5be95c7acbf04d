"""Models that behave badly, and one warm process for all tests, since making one takes seconds."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from skipgraph.scan import pricing, scanning
from skipgraph.scan.isolated import Isolated

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        x = self.first(x)
        return x + self.second(x).relu()

example_inputs = (torch.empty(1, 3, 8, 8),)
"""
# What each file does, and the reason that the table must give for it.
ACCIDENTS = {
    "leaves": ("import os; os._exit(7)", "ended itself with exit code 7"),
    "hangs": ("import time; time.sleep(600)", "ran longer than 4 s"),
    "grows": ("kept = []\nwhile True: kept.append(bytearray(b'x') * 2**24)", "needed more than 1 GB of memory"),
    "crashes": ("import ctypes; ctypes.string_at(0)", "died by signal 11 (SIGSEGV)"),
    "quits": ("raise SystemExit('enough')", "importing {path} ends the program: {path}:1: SystemExit: enough"),
    "refuses": ("raise ValueError(f'odd\\n{object()}')", "importing {path} failed: {path}:1: ValueError: odd"),
}


@pytest.fixture(scope="session")
def warm() -> Iterator[Isolated]:
    with Isolated(partial(pricing._prepare, ())) as isolated:
        yield isolated


@pytest.fixture
def shared(warm: Isolated, monkeypatch: pytest.MonkeyPatch) -> Isolated:
    """Every scan of this process uses the same processes."""
    monkeypatch.setattr(pricing, "isolated", lambda scan, prefixes: warm)
    monkeypatch.setattr(scanning, "isolated", lambda scan, prefixes: warm)
    return warm


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """Write a file that defines a network, or another text; its path is a SPEC."""

    def write(name: str = "net", text: str = NET) -> str:
        path = tmp_path / f"{name}.py"
        path.write_text(textwrap.dedent(text))
        return str(path)

    return write
