"""Live ranges of a graph's tensors, and what the peak would be if some of them changed."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate

from skipgraph.cost.memory import simulated
from skipgraph.graph import NodeAttributes, SkipGraph

Change = tuple[int, int, int]  # from this tick, to before that tick, so many bytes more


class LiveRanges:
    """A graph run node by node, each block of memory freed at its last use.

    Parameters
    ----------
    graph : SkipGraph
        Priced. It is read once and not kept in step with later changes.

    Attributes
    ----------
    nodes : dict
        Node -> attributes, in order of execution.
    tick_of : dict
        Node -> place in that order.
    peak_bytes : int
        The peak.

    Notes
    -----
    Building it is linear in the graph; a question about a site is linear in the time for which the site is live.
    """

    def __init__(self, graph: SkipGraph) -> None:
        order = sorted(graph.nodes(data=True), key=lambda item: item[1]["index"])
        self.nodes: dict[str, NodeAttributes] = dict(order)
        self.tick_of = {node: tick for tick, node in enumerate(self.nodes)}
        self._memory, self._block_of = simulated(graph, order)
        self._held = self._memory.held(self._memory.unused)
        self._before = [0, *accumulate(self._held, max)]  # the most before a tick
        self._after = [0, *accumulate(reversed(self._held), max)][::-1]  # the most from a tick on
        self.peak_bytes = self._after[0]

    def block(self, node: str) -> int:
        """The block that a node's result lies in."""
        return self._block_of[node]

    def nbytes(self, block: int) -> int:
        """Size of a block."""
        return self._memory.nbytes[block]

    def born(self, block: int) -> int:
        """The tick at which a block is allocated."""
        return self._memory.born[block]

    def end(self, block: int) -> int:
        """The tick by which a block is freed."""
        return self._memory.unused[block]

    def most_held(self, first: int, last: int) -> int:
        """The most bytes held at a tick from ``first`` to ``last``."""
        return max(self._held[first : last + 1])

    def without(self, block: int, until: int | None = None) -> Change:
        """The change that a block is never allocated, or not before ``until``."""
        end = self.end(block) if until is None else until
        return self.born(block), end, -self.nbytes(block)

    def extended(self, block: int, end: int) -> Change:
        """The change that a block is held until ``end`` at least."""
        return self.end(block), max(end, self.end(block)), self.nbytes(block)

    def peak_after(self, changes: Iterable[Change]) -> int:
        """The peak with some bytes more, or less, at some ticks."""
        changes = [change for change in changes if change[0] < change[1] and change[2]]
        if not changes:
            return self.peak_bytes
        start, end = min(change[0] for change in changes), max(change[1] for change in changes)
        steps = [0] * (end - start + 1)
        for first, last, nbytes in changes:
            steps[first - start] += nbytes
            steps[last - start] -= nbytes
        inside = max(held + more for held, more in zip(self._held[start:end], accumulate(steps[:-1]), strict=True))
        return max(self._before[start], inside, self._after[end])
