"""Which modules are running where a model holds the most: their calls hold arguments that it needs no more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from skipgraph.capture import capture
from skipgraph.capture.trees import map_tensors
from skipgraph.cost.clock import lay_out
from skipgraph.cost.fused import stretches
from skipgraph.graph import build

Inputs = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Held:
    """Bytes of activations that are held at each tick of a forward, and the module that is running then."""

    bytes: list[int]
    modules: list[str]

    @property
    def peak(self) -> int:
        """The most that is held at once."""
        return max(self.bytes, default=0)

    def running(self, above: int) -> set[str]:
        """The modules whose calls are under way whenever more than ``above`` is held, outer ones included."""
        found = {module for held, module in zip(self.bytes, self.modules, strict=True) if held > above and module}
        return {".".join(parts[:count]) for parts in (one.split(".") for one in found) for count in _counts(parts)}


def _counts(parts: list[str]) -> range:
    return range(1, len(parts) + 1)


def observed(model: nn.Module, inputs: Inputs) -> Held:
    """What a forward in evaluation holds, seen on tensors without data."""
    args, kwargs = map_tensors(lambda tensor: tensor.to("meta"), inputs)
    program = capture(model, args, kwargs)
    memory = lay_out(build(program), program, stretches(program)).memory
    return Held(memory.held(memory.freed), [operator.call.module_call.path for operator in program.operators])
