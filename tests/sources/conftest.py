"""Small models in files."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

WriteFile = Callable[..., Path]

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.first = nn.Linear(width, width)

    def forward(self, x):
        return x + self.first(x)
"""


@pytest.fixture
def write(tmp_path: Path) -> WriteFile:
    """Write a Python file that starts with `Net`, unless ``net=False``."""

    def write(text: str = "", *, net: bool = True, name: str = "model.py") -> Path:
        path = tmp_path / name
        path.write_text((NET if net else "") + textwrap.dedent(text))
        return path

    return write


@pytest.fixture(autouse=True)
def _search_path() -> Iterator[None]:
    """Files put their folders on the search path; no test leaves one there."""
    before = list(sys.path)
    yield
    sys.path[:] = before
