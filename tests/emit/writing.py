"""Captured models written as source, executed, and loaded with their weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from skipgraph.capture import Captured, runnable
from skipgraph.capture.trees import tensors
from skipgraph.emit import emitted
from tests.helpers.rerun import run

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn


@dataclass(frozen=True)
class Alone:
    """A model, what was captured of it, and the same written out and loaded again from a directory."""

    original: nn.Module
    captured: Captured
    text: str
    model: nn.Module
    names: dict[str, Any]

    def forward_of(self, name: str) -> str:
        """The text of one class's forward."""
        start = self.text.index(f"class {name}(nn.Module):")
        forward = self.text.index("    def forward(", start)
        return self.text[forward:].split("\n\n")[0]


def split(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword inputs."""
    return ((), inputs) if isinstance(inputs, dict) else (tuple(inputs), {})


def write(model: nn.Module, inputs: Any, folder: Path) -> Alone:
    """Write a model into ``folder`` and load it from there, as its user does."""
    captured = runnable(model, *split(inputs))
    return written(model, captured, inputs, folder)


def written(model: nn.Module, captured: Captured, inputs: Any, folder: Path) -> Alone:
    """The same for a model that was captured already."""
    result = emitted(captured, split(inputs), title="A model.")
    for name, content in result.files.items():
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    text = (folder / "model.py").read_text()
    names: dict[str, Any] = {"__name__": "written", "__file__": str(folder / "model.py")}
    exec(compile(text, "model.py", "exec", dont_inherit=True), names)
    return Alone(model, captured, text, names["load"](), names)


def assert_same_state(alone: Alone) -> None:
    """The same keys in the same order, shapes, dtypes, gradients wanted or not."""
    ours, theirs = alone.model.state_dict(), alone.original.state_dict()
    assert list(ours) == list(theirs)
    for name in theirs:
        assert ours[name].dtype == theirs[name].dtype, name
        assert torch.equal(ours[name], theirs[name]), name
    assert [(name, one.requires_grad) for name, one in alone.model.named_parameters()] == [
        (name, one.requires_grad) for name, one in alone.original.named_parameters()
    ]


def assert_same_runs(alone: Alone, inputs: Any) -> None:
    """The same outputs, gradients and buffers in both modes, bit for bit."""
    for training in (False, True):
        ours, theirs = (run(one, inputs, training=training) for one in (alone.model, alone.original))
        for mine, other in zip(tensors(ours[0]), tensors(theirs[0]), strict=True):
            assert torch.equal(mine, other)
            assert mine.requires_grad == other.requires_grad
        for mine, other in zip(ours[1], theirs[1], strict=True):
            assert (mine is None) == (other is None)
            assert mine is None or torch.equal(mine, other)
        for mine, other in zip(ours[2], theirs[2], strict=True):
            assert torch.equal(mine, other)
