"""Running the command line as its users do."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
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


# A process that has imported what the commands import and has done nothing else; each command is a fork of it. Without
# it, three quarters of the time of these tests would go to importing PyTorch.
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    ["torch", "torch._dynamo", "scipy.optimize", "skipgraph_cli.main", "skipgraph.delivery", "skipgraph.bench"]
)


def run(*arguments: object) -> Finished:
    """Run ``skipgraph`` in a process of its own, not on a terminal."""
    with tempfile.TemporaryDirectory() as folder:
        process = _SERVER.Process(target=_command, args=([*map(str, arguments)], str(Path.cwd()), folder))
        process.start()
        process.join(timeout=120)
        if process.exitcode is None:
            process.kill()
            raise TimeoutError(f"skipgraph {' '.join(map(str, arguments))} does not end")
        out, err = (Path(folder, name).read_text(encoding="utf-8") for name in ("out", "err"))
    return Finished(process.exitcode, out, err)


def _command(arguments: list[str], directory: str, folder: str) -> None:
    os.chdir(directory)
    for stream, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(Path(folder, name), os.O_WRONLY | os.O_CREAT), stream)
    from skipgraph_cli.main import app

    sys.argv = ["skipgraph", *arguments]
    app()


def run_alone(*arguments: object, command: tuple[str, ...] = COMMAND, **options: Any) -> Finished:
    """The same from nothing, as a shell does."""
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
