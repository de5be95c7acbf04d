"""What each skip costs: what is held for it, and for how long."""

from __future__ import annotations

from operator import itemgetter

from skipgraph.cost.clock import Clock
from skipgraph.cost.memory import Memory
from skipgraph.graph import Merge, Skip, SkipGraph

_Span = tuple[int, int]  # ticks: held after the first, until the second


def book_skips(graph: SkipGraph, clock: Clock, peak_tick: int) -> None:
    """Set the cost attributes of all skips.

    The source of a skip is held for it after the bypassed paths have left it, until the shortcut has read it; what the
    shortcut itself computes is held from its production to its use. A block of memory counts whole, also where the
    shortcut reads a slice of it.
    """
    nodes = graph.nodes
    for merge in graph.merges:
        if not merge.skips:
            continue
        entered = _entered(graph, merge, clock)
        for skip in merge.skips:
            skip.bytes = nodes[skip.operand_node]["bytes_out"]
            _book(skip, _held(graph, skip, entered, clock), clock, peak_tick)


def _book(skip: Skip, held: dict[int, _Span], clock: Clock, peak_tick: int) -> None:
    memory = clock.memory
    skip.byte_steps = skip.held_steps = 0
    # Its own code may hold it longer than the skip needs it: what counts at the peak is that it is there.
    skip.held_at_peak = any(memory.born[block] <= peak_tick < memory.freed[block] for block in held)
    reached = -1
    for block, (start, end) in sorted(held.items(), key=itemgetter(1)):
        if start >= end:
            continue
        skip.byte_steps += memory.nbytes[block] * _steps(start, end, memory)
        if end > reached:
            skip.held_steps += _steps(max(start, reached), end, memory)
            reached = end


def _steps(start: int, end: int, memory: Memory) -> int:
    """Steps between two ticks; -1 is before the first."""
    return memory.step_of[end] - (memory.step_of[start] if start >= 0 else 0)


def _entered(graph: SkipGraph, merge: Merge, clock: Clock) -> dict[str, int]:
    """When the merge has read each of its operands: node -> tick. A flattened merge reads at several places."""
    entered: dict[str, int] = {}
    predecessors = graph._pred
    for node in {merge.node, *merge.nodes}:
        tick = clock.tick_of[node]
        for producer in predecessors[node]:
            if tick > entered.get(producer, -1):
                entered[producer] = tick
    return entered


def _held(graph: SkipGraph, skip: Skip, entered: dict[str, int], clock: Clock) -> dict[int, _Span]:
    """The blocks that are held for a skip, and between which ticks."""
    tick_of, block_of = clock.tick_of, clock.block_of
    source = block_of[skip.source]
    left = tick_of.get(skip.leaves_last, tick_of[skip.source])
    if not skip.stem:
        return {source: (left, entered.get(skip.operand_node, tick_of[skip.merge]))}
    spans = {source: (left, left)}
    members = {skip.source, *skip.stem}
    for node in skip.stem:
        tick = tick_of[node]
        for producer in graph.pred[node]:
            if producer in members:
                start, end = spans[block_of[producer]]
                spans[block_of[producer]] = start, max(end, tick)
        spans.setdefault(block_of[node], (tick, tick))
    start, end = spans[block_of[skip.operand_node]]
    spans[block_of[skip.operand_node]] = start, max(end, entered.get(skip.operand_node, tick_of[skip.merge]))
    return spans
