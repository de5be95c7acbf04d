"""Running the command line as its users do."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

COMMAND = (sys.executable, "-m", "skipgraph_cli.main")

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x):
        x = self.first(x)
        return x + self.second(x).relu()
"""


@dataclass(frozen=True)
class Finished:
    """What a run of the command line left behind."""

    code: int
    stdout: str
    stderr: str


def run(*arguments: object, command: tuple[str, ...] = COMMAND, **options: Any) -> Finished:
    """Run ``skipgraph`` in a process of its own, not on a terminal."""
    done = subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False, **options
    )
    return Finished(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a Python file that starts with `Net`, unless ``net=False``."""

    def write(text: str = "", *, net: bool = True, name: str = "model.py") -> Path:
        path = tmp_path / name
        path.write_text((NET if net else "") + textwrap.dedent(text))
        return path

    return write
