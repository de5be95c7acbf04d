"""One forward and backward: everything of it that a rewrite must not change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from skipgraph.capture.trees import map_tensors, named_tensors
from skipgraph.passes.state_map import StateMap
from skipgraph.verify.inputs import Inputs
from skipgraph.verify.weights import named_buffers, parameters

_OTHER_SEED = 977  # of the weights of the loss; far from those of the inputs


@dataclass(frozen=True, slots=True)
class Outcome:
    """Tensors by name, and whether random numbers were drawn on the way."""

    outputs: dict[str, torch.Tensor]
    buffers: dict[str, torch.Tensor]
    gradients: dict[str, torch.Tensor]
    drew: bool

    def rewritten(self, state_map: StateMap) -> Outcome:
        """The same by the names, and in the pieces, of the rewritten model."""
        return Outcome(self.outputs, state_map.forward(self.buffers), state_map.forward(self.gradients), self.drew)


def run(module: torch.nn.Module, inputs: Inputs, seed: int) -> Outcome:
    """Run forward and backward in the module's present mode; its buffers and gradients are the same afterwards.

    The loss is the sum of all outputs times fixed random weights. A parameter without a gradient has zeros.
    """
    device = device_of(module)
    leaves: dict[str, torch.Tensor] = {}
    with kept_buffers(module):
        args, kwargs = _tracked(inputs, leaves)
        torch.manual_seed(seed)
        before = random_state(device)
        output = module(*args, **kwargs)
        drew = not torch.equal(before, random_state(device))
        outputs = dict(named_tensors(output))
        kept = {name: tensor.detach().clone() for name, tensor in outputs.items()}
        leaves |= parameters(module)
        if (total := loss(outputs)) is not None:
            total.backward()
        gradients = {name: _gradient(leaf) for name, leaf in leaves.items() if leaf.requires_grad}
        for leaf in leaves.values():
            leaf.grad = None
        buffers = {name: buffer.detach().clone() for name, buffer in named_buffers(module).items()}
    return Outcome(kept, buffers, gradients, drew)


def _tracked(inputs: Inputs, leaves: dict[str, torch.Tensor]) -> Inputs:
    """The inputs with gradients; the model gets copies of the ``leaves``, which it may write into."""

    def tracked(tensor: torch.Tensor) -> torch.Tensor:
        floating = tensor.is_floating_point() or tensor.is_complex()
        leaf = tensor.detach().clone().requires_grad_(floating)
        leaves[f"input {names[id(tensor)]}"] = leaf
        return leaf.clone()

    args, kwargs = inputs
    names = {id(tensor): name for name, tensor in [*named_tensors(kwargs), *named_tensors(args)]}
    tracked_inputs: Inputs = map_tensors(tracked, inputs)
    return tracked_inputs


def _gradient(leaf: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad.detach()


def loss(outputs: dict[str, torch.Tensor]) -> torch.Tensor | None:
    """All outputs that have gradients, times random numbers that follow from their places and shapes."""
    total = None
    for place, tensor in enumerate(outputs.values()):
        if not tensor.requires_grad:
            continue
        generator = torch.Generator().manual_seed(_OTHER_SEED + place)
        value = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
        weights = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        term = (value * weights.to(value.device, value.dtype)).sum()
        total = term if total is None else total + term.to(total.device)
    return total


@contextmanager
def kept_buffers(module: torch.nn.Module) -> Iterator[None]:
    """Every buffer is what it was after this block, in the very tensor that it was."""
    before = [
        (part._buffers, name, buffer, None if buffer is None else buffer.detach().clone())
        for part in module.modules()
        for name, buffer in part._buffers.items()
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for table, name, buffer, values in before:
                table[name] = buffer
                if buffer is not None and values is not None:
                    buffer.copy_(values)


def device_of(module: torch.nn.Module) -> torch.device:
    """Of the first parameter or buffer."""
    first = next(module.parameters(), next(module.buffers(), None))
    return torch.device("cpu") if first is None else first.device


def random_state(device: torch.device) -> torch.Tensor:
    """Of the generators of the CPU and of ``device``."""
    state = torch.get_rng_state()
    return torch.cat([state, torch.cuda.get_rng_state(device)]) if device.type == "cuda" else state


def arguments(graph: torch.fx.Graph, inputs: Inputs) -> list[Any]:
    """The inputs in the order of the graph's placeholders."""
    args, kwargs = inputs
    targets = [str(node.target) for node in graph.find_nodes(op="placeholder")]
    return [*args, *(kwargs[target] for target in targets[len(args) :])]
