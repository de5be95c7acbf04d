"""Sameness of two graphs: isomorphic after canonicalisation, by the design's measure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import networkx as nx

if TYPE_CHECKING:
    from skipgraph.graph import SkipGraph

_COMPARED = ("op", "kind", "shape", "dtype", "axis", "output")
_UNORDERED = {"sum"}


def canonical(graph: SkipGraph) -> nx.MultiDiGraph:
    """Live nodes with what is compared of them; nested concats of one reader flattened, equal concats shared."""
    plain = nx.MultiDiGraph()
    for node, data in graph.nodes(data=True):
        if data["live"] or data["constant"]:
            plain.add_node(node, label=tuple(data[name] for name in _COMPARED))
    for source, target, key in graph.edges(keys=True):
        if source in plain and target in plain:
            plain.add_edge(source, target, place=key)
    while _flatten_one(graph, plain) or _share_one(graph, plain):
        pass
    for node in list(plain):
        if graph.nodes[node]["kind"] in _UNORDERED:
            for _, _, data in plain.in_edges(node, data=True):
                data["place"] = 0
    return plain


def same(one: SkipGraph, other: SkipGraph) -> bool:
    """Whether two graphs compute the same in the same way."""
    return nx.is_isomorphic(
        canonical(one),
        canonical(other),
        node_match=lambda a, b: a["label"] == b["label"],
        edge_match=lambda a, b: sorted(e["place"] for e in a.values()) == sorted(e["place"] for e in b.values()),
    )


def _operands(plain: nx.MultiDiGraph, node: str) -> list[str]:
    found = [(data["place"], source) for source, _, data in plain.in_edges(node, data=True)]
    return [source for _, source in sorted(found)]


def _flatten_one(graph: SkipGraph, plain: nx.MultiDiGraph) -> bool:
    """``cat(cat(a, b), c)`` where nobody else reads the inner one, and concats of one operand."""
    for inner in plain:
        data = graph.nodes[inner]
        readers = list(plain.out_edges(inner))
        if data["kind"] != "concat" or data["output"] or len(readers) != 1:
            continue
        outer = readers[0][1]
        if graph.nodes[outer]["kind"] != "concat" or graph.nodes[outer]["axis"] != data["axis"]:
            continue
        operands = [
            one for old in _operands(plain, outer) for one in (_operands(plain, inner) if old == inner else [old])
        ]
        plain.remove_edges_from(list(plain.in_edges(outer, keys=True)))
        for place, operand in enumerate(operands):
            plain.add_edge(operand, outer, place=place)
        plain.remove_node(inner)
        return True
    return False


def _share_one(graph: SkipGraph, plain: nx.MultiDiGraph) -> bool:
    seen: dict[tuple[str, ...], str] = {}
    for node in plain:
        if graph.nodes[node]["kind"] != "concat":
            continue
        key = (str(graph.nodes[node]["axis"]), *_operands(plain, node))
        if key in seen:
            for _, reader, data in list(plain.out_edges(node, data=True)):
                plain.add_edge(seen[key], reader, place=data["place"])
            plain.remove_node(node)
            return True
        seen[key] = node
    return False
