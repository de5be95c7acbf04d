"""What the diagram draws between operators: the edges of the graph, styled, with the shortcuts of concats bundled."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from skipgraph.graph import Merge, Skip, SkipGraph
from skipgraph.report.drawing import Style


@dataclass(slots=True)
class Link:
    """One edge to be drawn, or a bundle of them."""

    tail: str
    head: str
    style: Style
    bytes: int
    skips: tuple[str, ...]
    held_at_peak: bool


def links(graph: SkipGraph, drawn: dict[str, Merge]) -> Iterator[Link]:
    """Every edge of ``graph`` as a link, where ``drawn`` are the merges that have a box of their own.

    Parameters
    ----------
    graph : SkipGraph
    drawn : dict of str to Merge
        By every node that was flattened into them. The shortcuts of all other merges are drawn as plain data.
    """
    shortcuts = _shortcut_edges(graph, drawn)
    stems = _stem_edges(graph, drawn)
    gates = {(gate.gate, gate.node) for gate in graph.gates}
    buses = dict(_buses(drawn))
    bundles: dict[str, Link] = {}
    for tail, head, operand, edge in graph.edges(keys=True, data=True):
        ids = tuple(skip.id for skip in shortcuts.get((tail, head, operand), ()))
        merge = drawn.get(head)
        if merge and head in buses and tail in buses[head].operands:
            bundle = bundles.setdefault(head, Link(buses[head].node, head, Style("skip", "concat"), 0, (), False))
            bundle.skips += ids
            bundle.bytes += edge.get("bytes", 0)
            bundle.held_at_peak |= edge.get("held_at_peak", False)
            continue
        if merge and ids:
            style = Style("skip", merge.kind, any(s.span == "long" for s in shortcuts[tail, head, operand]))
        elif (tail, head) in gates:
            style = Style("gate")
        else:
            style = stems.get((tail, head), Style())
        yield Link(tail, head, style, edge.get("bytes", 0), ids, edge.get("held_at_peak", False))
    yield from bundles.values()


def _shortcut_edges(graph: SkipGraph, drawn: dict[str, Merge]) -> dict[tuple[str, str, int], list[Skip]]:
    """The edges on which shortcut operands enter their merges, be it by a node that was flattened into the merge."""
    found: dict[tuple[str, str, int], list[Skip]] = defaultdict(list)
    for merge in {id(merge): merge for merge in drawn.values()}.values():
        edges: dict[str, list[tuple[str, str, int]]] = defaultdict(list)
        for edge in graph.in_edges({merge.node, *merge.nodes}, keys=True):
            edges[edge[0]].append(edge)
        for skip in merge.skips:
            # x + x has two edges from one node: each skip takes the first that no other has taken.
            found[min(edges[skip.operand_node], key=lambda edge: (len(found[edge]), edge[2]))].append(skip)
    return found


def _stem_edges(graph: SkipGraph, drawn: dict[str, Merge]) -> dict[tuple[str, str], Style]:
    """The edges on the way from a skip's source to the last operator of its stem: they look like the skip."""
    found: dict[tuple[str, str], Style] = {}
    for merge in {id(merge): merge for merge in drawn.values()}.values():
        for skip in merge.skips:
            stem = set(skip.stem)
            style = Style("skip", skip.kind, skip.span == "long")
            for head in skip.stem:
                for tail in graph.predecessors(head):
                    if tail == skip.source or tail in stem:
                        found[tail, head] = style
    return found


def _buses(drawn: dict[str, Merge]) -> Iterator[tuple[str, Merge]]:
    """For the concats of a dense block, the earlier concat whose operands they all read again.

    cat(a, b, c, d) = cat(cat(a, b, c), d): one link from the earlier concat to the later stands for all operands that
    they share. A block of L layers is then drawn with L links where it has L(L+1)/2 edges.
    """
    concats = {id(m): m for m in drawn.values() if m.kind == "concat" and m.span == "short"}.values()
    readers: dict[str, list[Merge]] = defaultdict(list)
    for merge in concats:
        shortcuts = {merge.operands[skip.operand] for skip in merge.skips}
        for earlier in reversed(readers[merge.operands[0]]):
            if shortcuts.issuperset(earlier.operands):
                yield merge.node, earlier
                break
        for operand in set(merge.operands):
            readers[operand].append(merge)
