"""Where projections are computed: on the cheap side of what they commute with, at the fork, or inside another layer.

All of it is exact. ``folded`` changes tensors, which no map of states can say; ``moved`` changes none.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from skipgraph.capture import Captured
from skipgraph.compress.layers import TRANSPOSED, sizes
from skipgraph.compress.sites import commutes
from skipgraph.graph import SkipGraph
from skipgraph.passes.order import overwritten
from skipgraph.passes.workbench import Inputs, drawn


@dataclass(frozen=True, slots=True)
class Fold:
    """A projection that is now a part of the layer that makes what it read.

    Attributes
    ----------
    path : str
        Of the projection, which is an identity now.
    source : str
        Path of that layer.
    width : int
        Channels that it made before.
    """

    path: str
    source: str
    width: int


def moved(model: Captured, paths: Iterable[str], inputs: Inputs) -> None:
    """Compute projections before what resamples their input, and as soon as nobody else reads that any more.

    Law 6: a projection without a bias and without a kernel is a sum over channels with constant weights, and what
    ``commutes`` is one and the same linear map of each channel; sums and linear maps change places. A projection with
    fewer channels than it reads is put behind the last other reader of its input, which is then free: what is held
    from there on is the projection.

    Parameters
    ----------
    model : Captured
        Edited in place; its concats are taken apart already.
    paths : iterable of str
        Of the pairs of layers.
    inputs : tuple
        Example inputs.
    """
    wanted = set(paths)
    graphs = [(training, graph) for training, graph in model.graphs.items()
              if not training or graph is not model.graphs[False]]  # fmt: skip
    operators = [drawn(model, inputs, train=training) for training, _ in graphs]
    for (_, graph), known in zip(graphs, operators, strict=True):
        for node in list(projections(model, graph, wanted)):
            _commute(model, node)
            _to_the_fork(graph, node, known)
    model.recompile()


def folded(model: Captured, paths: Iterable[str], sources: Collection[str]) -> tuple[Fold, ...]:
    """Fold projections into the linear layers that make their input, where nothing else reads it and it is cheaper.

    ``P·(W·x + b) = (P·W)·x + P·b``. The layer then makes the projection's channels itself. Returns what was folded.

    Parameters
    ----------
    model : Captured
        Edited in place; its concats are taken apart already.
    paths : iterable of str
        Of the pairs of layers.
    sources : collection of str
        Paths of the layers that may be changed.
    """
    wanted, done = set(paths), []
    nodes = [
        [node for node in projections(model, graph, wanted) if _foldable(model, node, sources)]
        for graph in model.unlike_graphs()
    ]
    everywhere = set.intersection(*({(str(node.target), _source(node)) for node in found} for found in nodes))
    for found in nodes:
        for node in found:
            if (str(node.target), _source(node)) in everywhere:
                read = node.all_input_nodes[0]
                node.replace_all_uses_with(read)
                read.meta["shape"] = node.meta["shape"]
                node.graph.erase_node(node)
    for target, source in sorted(everywhere):
        done.append(Fold(target, source, sizes(model.get_submodule(source))[0]))
        _fold(model, source, target)
    model.recompile()
    return tuple(done)


def projections(model: Captured, graph: fx.Graph, paths: set[str]) -> Iterator[fx.Node]:
    """Calls of the first layer of a pair, or of a part of it, that have no kernel."""
    for node in graph.nodes:
        path, _, _ = str(node.target).partition(".project")
        if node.op == "call_module" and path in paths and ".project" in str(node.target):
            layer = model.get_submodule(str(node.target))
            if isinstance(layer, nn.Linear) or math.prod(getattr(layer, "kernel_size", (2,))) == 1:
                yield node


def _commute(model: Captured, node: fx.Node) -> None:
    """Put a projection in front of what its input was resampled by, while that is smaller."""
    while True:
        read = node.args[0]
        if not isinstance(read, fx.Node) or set(read.users) != {node} or not commutes(model, read):
            return
        if isinstance(model.get_submodule(str(node.target)), nn.Linear):  # its channels stand elsewhere
            return
        source = read.args[0]
        if not isinstance(source, fx.Node) or _size(source) >= _size(read):
            return
        shape = node.meta["shape"]
        node.replace_all_uses_with(read)
        node.args = (source, *node.args[1:])
        read.replace_input_with(source, node)
        axis = len(shape) - len(read.meta["shape"][2:]) - 1 if len(shape) > 2 else len(shape) - 1
        node.meta["shape"] = (*source.meta["shape"][:axis], shape[axis], *source.meta["shape"][axis + 1 :])
        read.meta["shape"] = shape
        read.prepend(node)


def _size(node: fx.Node) -> int:
    return math.prod(node.meta["shape"])


def _to_the_fork(graph: fx.Graph, node: fx.Node, operators: SkipGraph) -> None:
    read = node.args[0]
    if not isinstance(read, fx.Node) or _size(node) >= _size(read):
        return
    place = {one: number for number, one in enumerate(graph.nodes)}
    others = [user for user in read.users if user is not node]
    if any(place[user] > place[node] for user in others):
        return
    last = max([read, *others], key=place.__getitem__)
    between = {one.name for one, number in place.items() if place[last] < number < place[node]}
    if overwritten(operators, [read], between):
        return
    if last.op == "placeholder":  # those stand together
        last = next(one for one in reversed(graph.find_nodes(op="placeholder")))
    last.append(node)


def _source(node: fx.Node) -> str:
    read = node.args[0]
    return str(read.target) if isinstance(read, fx.Node) and read.op == "call_module" else ""


def _foldable(model: Captured, node: fx.Node, sources: Collection[str]) -> bool:
    read = node.args[0]
    if not isinstance(read, fx.Node) or set(read.users) != {node} or str(read.target) not in sources:
        return False
    source: Any = model.get_submodule(str(read.target))
    layer: Any = model.get_submodule(str(node.target))
    positions = _size(node) // layer.weight.shape[0]
    made = source.weight.numel() * _applied(source, read)
    less = made // layer.weight.shape[1] * layer.weight.shape[0]
    return bool(less <= made + positions * layer.weight.numel())


def _applied(module: Any, node: fx.Node) -> int:
    """At how many positions a layer's kernel is applied."""
    at = node.args[0] if type(module) in TRANSPOSED else node
    return _size(at) // int(module.weight.shape[0])  # type: ignore[arg-type]


def _fold(model: Captured, source: str, target: str) -> None:
    layer: Any = model.get_submodule(source)
    projection: Any = model.get_submodule(target)
    with torch.no_grad():
        first = projection.weight.reshape(projection.weight.shape[:2]).double()
        weight = layer.weight.double()
        equation = "ro,io...->ir..." if type(layer) in TRANSPOSED else "ro,oi...->ri..."
        rank = first.shape[0]
        layer.weight = nn.Parameter(
            torch.einsum(equation, first, weight).to(layer.weight.dtype), requires_grad=layer.weight.requires_grad
        )
        if layer.bias is not None:
            bias = (first @ layer.bias.double()).to(layer.bias.dtype)
            layer.bias = nn.Parameter(bias, requires_grad=layer.bias.requires_grad)
        if isinstance(layer, nn.Linear):
            layer.out_features = rank
        else:
            layer.out_channels = rank
    model.set_submodule(target, nn.Identity())
