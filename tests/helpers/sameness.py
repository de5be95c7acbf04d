"""The design's measure of sameness: isomorphic graphs after canonicalisation, and equal weights, trained or not."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import networkx as nx
import torch
from torch import nn

from skipgraph.capture.trees import map_tensors, tensors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from skipgraph.graph import SkipGraph

COMPARED = ("op", "kind", "shape", "dtype", "axis", "output")


def canonical(graph: SkipGraph) -> nx.MultiDiGraph:
    """What of a graph reaches an output, in canonical form.

    Concats of one operand are taken out, concats that only one other concat reads are flattened into it, and equal
    concats of equal operands are one. Every node has a ``label`` of what is compared of it, layers the
    path of their module too; every edge has its ``place`` among the operands, 0 where their order does not matter.
    """
    plain = nx.MultiDiGraph()
    for node, data in graph.nodes(data=True):
        if data["live"] or data["constant"]:
            owner = data["module"] if data["layer"] else ""
            plain.add_node(node, label=(owner, *(data[name] for name in COMPARED)), kind=data["kind"])
    for source, target, key in graph.edges(keys=True):
        if source in plain and target in plain:
            plain.add_edge(source, target, place=key)
    while _simplified(graph, plain):
        pass
    for node, data in plain.nodes(data=True):
        for place, (_, _, edge) in enumerate(sorted(plain.in_edges(node, data=True), key=lambda one: one[2]["place"])):
            edge["place"] = 0 if data["kind"] == "sum" else place
    return plain


def _operands(plain: nx.MultiDiGraph, node: str) -> list[str]:
    edges = sorted(plain.in_edges(node, data="place"), key=lambda edge: edge[2])
    return [source for source, _, _ in edges]


def _simplified(graph: SkipGraph, plain: nx.MultiDiGraph) -> bool:
    """Do one step of canonicalisation; False if there is nothing left to do."""
    for node in plain:
        data, operands = graph.nodes[node], _operands(plain, node)
        alone = data["op"] == "cat" and len(operands) == 1 and not data["output"]
        if alone and data["shape"] == graph.nodes[operands[0]]["shape"]:  # else constants are joined to it
            _replace(plain, node, operands[0])
            return True
    concats = [node for node, kind in plain.nodes(data="kind") if kind == "concat"]
    for node in concats:
        readers = [reader for _, reader in plain.out_edges(node)]
        if len(readers) == 1 and not graph.nodes[node]["output"] and readers[0] in concats:
            outer = readers[0]
            if graph.nodes[outer]["axis"] == graph.nodes[node]["axis"]:
                _flatten(plain, node, outer)
                return True
    seen: dict[tuple[Any, ...], str] = {}
    for node in concats:
        if graph.nodes[node]["output"]:
            continue
        first = seen.setdefault((graph.nodes[node]["axis"], *_operands(plain, node)), node)
        if first != node:
            _replace(plain, node, first)
            return True
    return False


def _replace(plain: nx.MultiDiGraph, node: str, by: str) -> None:
    for _, reader, place in list(plain.out_edges(node, data="place")):
        plain.add_edge(by, reader, place=place)
    plain.remove_node(node)


def _flatten(plain: nx.MultiDiGraph, inner: str, outer: str) -> None:
    within = _operands(plain, inner)
    operands = [one for old in _operands(plain, outer) for one in (within if old == inner else [old])]
    plain.remove_node(inner)
    plain.remove_edges_from(list(plain.in_edges(outer, keys=True)))
    for place, operand in enumerate(operands):
        plain.add_edge(operand, outer, place=place)


def difference(one: SkipGraph, other: SkipGraph) -> str:
    """How two graphs differ by that measure, in words; empty if they do not."""
    ours, theirs = canonical(one), canonical(other)
    labels = [Counter(data for _, data in plain.nodes(data="label")) for plain in (ours, theirs)]
    for only, where in ((labels[0] - labels[1], "first"), (labels[1] - labels[0], "second")):
        if only:
            return f"only in the {where} graph: {only.most_common(3)}"
    for plain in (ours, theirs):
        _colour(plain)
    if nx.is_isomorphic(ours, theirs, node_match=_same_colour, edge_match=_same_places):
        return ""
    return "the same nodes, otherwise connected"


def _colour(plain: nx.MultiDiGraph) -> None:
    """Give each node a colour that tells how it is computed: isomorphism then hardly has to search."""
    for node in nx.topological_sort(plain):
        read = sorted((place, plain.nodes[source]["colour"]) for source, _, place in plain.in_edges(node, data="place"))
        plain.nodes[node]["colour"] = hash((plain.nodes[node]["label"], tuple(read)))


def _same_colour(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    return bool(a["colour"] == b["colour"])


def _same_places(a: Mapping[Any, Any], b: Mapping[Any, Any]) -> bool:
    return sorted(edge["place"] for edge in a.values()) == sorted(edge["place"] for edge in b.values())


def assert_same_weights(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    """The same names in the same order, with the same bits, dtypes and shapes."""
    assert list(ours) == list(theirs)
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype, name
        assert torch.equal(ours[name], tensor), name


def without_dropout(model: nn.Module) -> nn.Module:
    """The model in float64 with its dropout layers switched off: dropout distributes in law, not draw by draw."""
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
    return model.double()


def in_double(inputs: Any) -> Any:
    """The inputs in float64."""
    return map_tensors(lambda one: one.double() if one.is_floating_point() else one, inputs)


def batch_in_double(inputs: Any) -> Any:
    """Three samples made of each example, in float64."""

    def three(tensor: Tensor) -> Tensor:
        return torch.cat([tensor, tensor.flip(-1), tensor.roll(1, -1)]) if tensor.dim() else tensor

    return map_tensors(three, in_double(inputs))


def take_step(model: nn.Module, inputs: Any, rate: float = 0.1) -> None:
    """One step of SGD in training mode, on positional and keyword inputs, with gradients that outweigh the weights."""
    args, kwargs = inputs
    model.train()
    torch.manual_seed(1)
    outputs = [one for one in tensors(model(*args, **kwargs)) if one.requires_grad]
    torch.stack([(one * one.detach().cos()).sum() for one in outputs]).sum().backward()
    torch.optim.SGD([one for one in model.parameters() if one.requires_grad], lr=rate).step()


def furthest(
    ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], start: Mapping[str, Tensor]
) -> tuple[float, str]:
    """By how much two sets of weights differ, in parts of the largest of each tensor, and where that is the most.

    A gradient that vanishes is rounding noise alone: what is less than a millionth of the largest change since
    ``start`` is measured by that.
    """
    floating = {name: tensor for name, tensor in theirs.items() if tensor.is_floating_point() and tensor.numel()}
    moved = max(float((tensor - start[name]).abs().max()) for name, tensor in floating.items())
    worst = (0.0, "")
    for name, tensor in floating.items():
        off = float((ours[name] - tensor).abs().max()) / max(float(tensor.abs().max()), 1e-6 * moved)
        worst = max(worst, (off, name))
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items() if name not in floating)
    return worst
