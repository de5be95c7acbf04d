"""What each skip costs: how much is held for it, how long, and how coarse the path is that it bypasses."""

from __future__ import annotations

from collections.abc import Collection

from skipgraph.cost.clock import Clock
from skipgraph.graph import Merge, Skip, SkipGraph

Uses = dict[int, list[tuple[int, str]]]  # block -> (step, reader), latest first


def book_skips(graph: SkipGraph, clock: Clock, peak_tick: int) -> None:
    """Set the cost attributes of all skips."""
    merges = [merge for merge in graph.merges if merge.skips]
    if not merges:
        return
    attributes_of = dict(clock.order)
    uses = _uses(graph, clock)
    coarser_after = _coarser_after(clock)
    for merge in merges:
        readers = {merge.node, *merge.nodes}
        for skip in merge.skips:
            skip.bytes = attributes_of[skip.operand_node]["bytes_out"]
            skip.coarsest_scale = _coarsest_scale(skip, attributes_of, coarser_after)
            _book_holding(skip, merge, readers, uses, clock, peak_tick)
