"""Priced graphs of small modules, and what PyTorch itself says of their memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from benchmarks.allocator import peak_bytes
from skipgraph.capture import capture
from skipgraph.cost import price
from skipgraph.graph import SkipGraph, build
from skipgraph.skips import find_skips

if TYPE_CHECKING:
    from torch import Tensor, nn


def priced(model: nn.Module, *inputs: Any, train: bool = False) -> SkipGraph:
    """The graph of a model with its skips and its costs."""
    program = capture(model if train else model.eval(), inputs, {}, train=train)
    graph = build(program)
    find_skips(graph)
    price(graph, program)
    return graph


def measured_peak(model: nn.Module, *inputs: Tensor) -> int:
    """The peak of a real forward by the allocator's own events, inputs included."""
    model.eval()
    return peak_bytes(lambda: model(*inputs), sum(tensor.nbytes for tensor in inputs))


def measured_saved(model: nn.Module, *inputs: Tensor) -> int:
    """What autograd keeps of a real training forward: distinct blocks, parameters and buffers left out."""
    left_out = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    blocks: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in left_out:
            blocks[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = model.train()(*inputs)
    del kept
    return sum(blocks.values())
