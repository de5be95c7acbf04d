"""A concat that can go, and what stands behind it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import networkx as nx

from skipgraph.graph import Merge, SkipGraph
from skipgraph.ops import Kind
from skipgraph.passes.channels import Channels
from skipgraph.passes.live_ranges import LiveRanges
from skipgraph.passes.site import Match

OF_GATES = "gate"  # the reason of a concat that is no merge


@dataclass(frozen=True, slots=True)
class Site(Match):
    """A concat that can go.

    Attributes
    ----------
    carriers : dict
        The concat, and the channel-wise nodes behind it that will run on each operand, with where the operands lie.
    layers : dict
        The layers that will be split -> the carrier that each reads.
    concats : tuple of str
        Later concats that will read the operands themselves.
    readers : tuple of str
        All that reads the concat itself.
    branches : bool
        Some carrier is read more than once.
    others : tuple of Merge
        Concats that go with it, as what they join is added to what it joins: see `joint`.
    """

    carriers: dict[str, Channels]
    layers: dict[str, str]
    concats: tuple[str, ...]
    readers: tuple[str, ...]
    branches: bool
    ranges: LiveRanges = field(repr=False, compare=False)
    others: tuple[Merge, ...] = ()

    @property
    def joined_block(self) -> int:
        """The block of memory that the concat writes."""
        return self.ranges.block(self.merge.node)


def concats_of(graph: SkipGraph) -> list[Merge]:
    """All concats in order of execution: merges, and others, which gates alone read.

    What such a one joins is read by it as well, so that it is no part of the merge that the definition takes it for.
    """
    merges = [_apart(graph, merge) for merge in graph.merges if merge.kind == "concat"]
    known = {node for merge in merges for node in merge.nodes}
    for node, attributes in graph.nodes(data=True):
        if attributes["kind"] == Kind.CONCAT.value and node not in known and attributes.get("live", True):
            operands = tuple(operand for _, operand in graph.operands(node))
            merges.append(Merge(node, node, "concat", attributes.get("axis"), operands, reason=OF_GATES, nodes=(node,)))
    return sorted(merges, key=lambda merge: graph.nodes[merge.node]["index"])


def _apart(graph: SkipGraph, merge: Merge) -> Merge:
    """A merge with those concats nested in it that none but the others read, whatever they read it for."""
    nested = {merge.node}
    for node in sorted(merge.nodes, key=lambda node: -graph.nodes[node]["index"]):
        if {reader for reader in graph.adj[node] if graph.nodes[reader].get("live", True)} <= nested:
            nested.add(node)
    if nested >= set(merge.nodes):
        return merge
    operands = tuple(_operands(graph, merge.node, nested))
    return replace(merge, operands=operands, nodes=tuple(node for node in merge.nodes if node in nested))


def _operands(graph: SkipGraph, concat: str, nested: Collection[str]) -> Iterator[str]:
    for _, operand in graph.operands(concat):
        if operand in nested:
            yield from _operands(graph, operand, nested)
        else:
            yield operand


def joint(sites: Sequence[Site]) -> Site:
    """One site of several whose channels meet, as in ``cat(a, b) + cat(c, d) = cat(a + c, b + d)``."""
    first, *others = sites
    return replace(
        first,
        carriers={node: channels for site in sites for node, channels in site.carriers.items()},
        layers={node: carrier for site in sites for node, carrier in site.layers.items()},
        concats=tuple(dict.fromkeys(node for site in sites for node in site.concats)),
        others=tuple(site.merge for site in others),
    )


def meeting(sites: Iterable[Site]) -> list[list[Site]]:
    """Sites whose channels meet in an operator, at the same borders, in order; those that meet no other alone."""
    known = list(sites)
    together: nx.Graph[int] = nx.Graph()
    together.add_nodes_from(range(len(known)))
    first: dict[tuple[str, Channels], int] = {}
    for place, site in enumerate(known):
        together.add_edges_from((first.setdefault(key, place), place) for key in site.carriers.items())
    return [[known[place] for place in sorted(group)] for group in nx.connected_components(together)]
