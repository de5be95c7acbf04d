"""A concat in front of convolutions or linear layers, split by hand: what a pass does, without the pass."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from skipgraph.capture.runnable import Captured, runnable
from skipgraph.passes.state_map import Piece, StateMap


@dataclass
class Rewrite:
    """An original, its rewritten twin, and what leads from one to the other."""

    before: Captured
    after: Captured
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    pieces: list[Piece] = field(default_factory=list)

    @property
    def state_map(self) -> StateMap:
        return StateMap(tuple(self.pieces))

    def edit(self, change: Callable[[fx.Graph], None], *, modes: tuple[bool, ...] = (False, True)) -> Rewrite:
        """Change the rewritten graph once more; in one mode only, it becomes a graph of its own."""
        if len(modes) == 1:
            self.after.graphs[modes[0]] = copy.deepcopy(self.after.graphs[modes[0]])
        for graph in {id(self.after.graphs[mode]): self.after.graphs[mode] for mode in modes}.values():
            change(graph)
        self.after.recompile()
        return self


def split(model: nn.Module, *args: Any, **kwargs: Any) -> Rewrite:
    """Every ``cat -> norms and activations -> layer`` becomes a sum of a layer an operand."""
    before = runnable(model, args, kwargs)
    after = copy.deepcopy(before)
    copies = {id(graph): copy.deepcopy(graph) for graph in before.graphs.values()}
    after.graphs = {mode: copies[id(graph)] for mode, graph in before.graphs.items()}
    rewrite = Rewrite(before, after, args, kwargs)
    for graph in copies.values():
        for node in list(graph.find_nodes(op="call_function", target=torch.cat)):
            _split(rewrite, graph, node)
        graph.lint()
    after.recompile()
    return rewrite


def _split(rewrite: Rewrite, graph: fx.Graph, cat: fx.Node) -> None:
    chain, node = [], cat
    while True:
        if len(node.users) != 1 or (node := next(iter(node.users))).op not in ("call_module", "call_function"):
            return
        module = rewrite.before.get_submodule(node.target) if node.op == "call_module" else None
        chain.append(node)
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            break
        if module is None and node.target is not torch.nn.functional.relu:
            return
    operands = cat.args[0]
    axis = 1 if isinstance(module, nn.Conv2d) else -1
    bounds = [0]
    for operand in operands:
        bounds.append(bounds[-1] + operand.meta["shape"][axis])
    parts = []
    for place, operand in enumerate(operands):
        start, length, value = bounds[place], bounds[place + 1] - bounds[place], operand
        for link in chain:
            with graph.inserting_before(chain[-1]):
                if link.op == "call_module":
                    target = _part(rewrite, link.target, place, start, length)
                    value = graph.call_module(target, (value,))
                else:
                    value = graph.call_function(link.target, (value,), link.kwargs)
        parts.append(value)
    total = parts[0]
    for part in parts[1:]:
        with graph.inserting_before(chain[-1]):
            total = graph.call_function(operator.add, (total, part))
    chain[-1].replace_all_uses_with(total)
    for link in [*reversed(chain), cat]:
        graph.erase_node(link)


def _part(rewrite: Rewrite, target: str, place: int, start: int, length: int) -> str:
    """The layer for one operand, in the place of the whole one; its path."""
    old = rewrite.before.get_submodule(target)
    parent = rewrite.after.get_submodule(target.rpartition(".")[0])
    name, path = target.rpartition(".")[2], f"{target}.{place}"
    if not isinstance(old, (nn.Conv2d, nn.Linear, nn.BatchNorm2d)):
        return target
    if place == 0:
        parent._modules[name] = nn.ModuleList()
    parts = parent._modules[name]
    if place < len(parts):
        return path
    new = copy.deepcopy(old)
    axis = 0 if isinstance(old, nn.BatchNorm2d) else 1
    for table in (new._parameters, new._buffers):
        for key, tensor in list(table.items()):
            if tensor is None:
                continue
            if axis == 1 and key == "bias":
                if place:
                    table[key] = None
                else:
                    rewrite.pieces.append(Piece(f"{target}.{key}", f"{path}.{key}"))
                continue
            whole = tensor.ndim == 0
            rewrite.pieces.append(
                Piece(f"{target}.{key}", f"{path}.{key}")
                if whole
                else Piece(f"{target}.{key}", f"{path}.{key}", axis, start, length)
            )
            cut = tensor.detach().clone() if whole else tensor.detach().narrow(axis, start, length).clone()
            table[key] = nn.Parameter(cut, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else cut
    if axis == 0:
        new.num_features = length
    elif isinstance(new, nn.Conv2d):
        new.in_channels = length
    else:
        new.in_features = length
    parts.append(new)
    return path
