"""The region between a merge and its farthest fork, swept once from the merge backwards."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from skipgraph.skips.signal import Candidate, Signal


@dataclass(slots=True, eq=False)
class Passed:
    """What is known of one node of a region, from there to the merge.

    Attributes
    ----------
    reaches : int
        Bitmask of the slots of the merge that it reaches.
    coarsest : int
        Fewest positions behind it on any path to a slot.
    following : list of int
        The nodes of the region that read it, latest first.
    slots : int
        Bitmask of the slots that it feeds directly.
    weight : int
        Most layer operators behind it on one path to a slot.
    merges : int
        Bitmask of the merges behind it, by number counted back from `Region.base`.
    resampling : int
        Bitmask of the resamplers behind it.
    last_use : int
        The last node of the region that reads it, bundles seen through.
    """

    reaches: int
    coarsest: int
    following: list[int]
    slots: int = 0
    weight: int = 0
    merges: int = 0
    resampling: int = 0
    last_use: int = -1


class Region:
    """What a sweep has seen of the ancestors of one merge.

    The sweep pops nodes in reverse order of execution, so that whatever it knows of a popped node is final: all paths
    from there to the merge have been walked. It ends as soon as no open node can fork off to an operand that still
    looks for its source; for a residual block that is the block, however long the network before it.

    Attributes
    ----------
    at : dict
        Node -> what is known of it.
    """

    def __init__(self, signal: Signal, candidate: Candidate, ordinal: dict[int, int]) -> None:
        self.signal = signal
        self.candidate = candidate
        self.positions = signal.positions[candidate.node]
        self.at: dict[int, Passed] = {}
        # Where there are positions, operands that have none, and are made of such alone, carry no signal.
        self.carrying = signal.carrying if self.positions > 1 else signal.preds
        self.slices = self.sums = False  # whether any was met
        self._resamplers: list[int] = []
        self.base = ordinal[candidate.node]
        self._ordinal = ordinal
        self._open: list[int] = []
        self._open_forks: set[int] = set()  # two ways lead from each to the merge: nothing else can be a source
        self.all_slots = 0
        self.order: list[int] = []  # popped nodes, latest first
        self._stem_weights: dict[int, tuple[dict[int, int], int]] = {}
        for place, slot in enumerate(candidate.slots):
            if signal.isolated[slot.node] or (self.positions > 1 and signal.conditioning[slot.node]):
                continue  # nothing forks off before it; or it conditions, and bypasses nothing
            bit = 1 << place
            self.all_slots |= bit
            operand = self.at.get(slot.node) or self._meet(slot.node)
            operand.reaches |= bit
            operand.slots |= bit

    def _meet(self, node: int) -> Passed:
        heapq.heappush(self._open, -node)
        met = self.at[node] = Passed(0, self.positions, [])
        return met

    def sweep(self, visit: Callable[[int], int]) -> None:
        """Pop nodes until nothing is left to find.

        ``visit(node)`` judges a popped fork and returns the slots that still look for their source.
        """
        wanted = self.all_slots
        witness = -1  # an open node that may yet fork off, or have ancestors that do, from a wanted slot
        at = self.at
        while self._open and wanted:
            if witness < 0 or -self._open[0] == witness or not wanted & ~at[witness].reaches:
                witness = next((-entry for entry in self._open if wanted & ~at[-entry].reaches), -1)
                if witness < 0:
                    break
            node = -heapq.heappop(self._open)
            if node == witness:
                witness = -1
            self.order.append(node)
            if node in self._open_forks:
                self._open_forks.remove(node)
                wanted = visit(node)
            self._pass_on(node)
        while self._open and wanted:
            node = -heapq.heappop(self._open)
            self.order.append(node)
            if node in self._open_forks:
                self._open_forks.remove(node)
                wanted = visit(node)
            if self._open_forks:  # other ways to it may lead through this node
                self._pass_on(node)

    def forking(self, node: int) -> int:
        """The slots that ``node`` reaches, but not on every way that leads on from it."""
        passed = self.at[node]
        everywhere = passed.reaches
        for after in passed.following:
            everywhere &= self.at[after].reaches
        if passed.slots:  # a way that leads to one slot alone
            everywhere &= passed.slots if passed.slots.bit_count() == 1 else 0
        return passed.reaches & ~everywhere

    def stem_weight(self, node: int, slot: int) -> int:
        """Most layer operators behind ``node`` on one path to ``slot``, for a popped node that reaches it."""
        weights, done = self._stem_weights.get(slot, ({}, 0))
        bit = 1 << slot
        layer, at = self.signal.layer, self.at
        for other in self.order[done:]:
            passed = at[other]
            if passed.reaches & bit:
                heaviest = 0
                for after in passed.following:
                    if after in weights and weights[after] + layer[after] > heaviest:
                        heaviest = weights[after] + layer[after]
                weights[other] = heaviest
        self._stem_weights[slot] = weights, len(self.order)
        return weights[node]

    @property
    def resamples(self) -> bool:
        """Whether any resampling has been met."""
        return bool(self._resamplers)

    @property
    def simple(self) -> bool:
        """Whether no slice or sum has been met: its paths need no second look."""
        return not (self.slices or self.sums)

    def resampling_behind(self, node: int) -> list[int]:
        """The resampling operators on the paths from ``node`` to the merge."""
        mask = self.at[node].resampling
        return [other for place, other in enumerate(self._resamplers) if mask >> place & 1]

    def bit_of(self, merge: int) -> int:
        """The bit that stands for ``merge`` in the masks of `merges`."""
        return 1 << (self.base - self._ordinal[merge])

    @cached_property
    def sliced(self) -> dict[int, tuple[list[tuple[tuple[int, int, int], int]], int]]:
        """Tensor -> its slices with the slots that these reach, and the slots reached from the whole of it."""
        found: dict[int, tuple[list[tuple[tuple[int, int, int], int]], int]] = {}
        at = self.at
        for node, passed in at.items():
            after = passed.following
            parts = [(part, at[n].reaches) for n in after if (part := self.signal.slices[n]) is not None]
            if parts:
                whole = passed.slots
                for n in after:
                    if self.signal.slices[n] is None:
                        whole |= at[n].reaches
                found[node] = (parts, whole)
        return found

    def _pass_on(self, node: int) -> None:
        """Tell the operands of a popped node what is known of it."""
        signal, at = self.signal, self.at
        passed = at[node]
        slots, coarsest, use = passed.reaches, passed.coarsest, passed.last_use
        weight, merges, resampling = passed.weight + signal.layer[node], passed.merges, passed.resampling
        if signal.names[node]:  # no bundle
            use = node
            if signal.positions[node] < coarsest:
                coarsest = signal.positions[node]
            if node in signal.candidates:
                merges |= self.bit_of(node)
                self.sums = self.sums or not signal.candidates[node].concat
            if signal.resamples[node]:
                resampling |= 1 << len(self._resamplers)
                self._resamplers.append(node)
            if signal.slices[node] is not None:
                self.slices = True
        for pred in self.carrying[node]:
            before = at.get(pred)
            if before is None:
                before = self._meet(pred)
            before.reaches |= slots
            before.following.append(node)
            if before.slots or len(before.following) > 1:
                self._open_forks.add(pred)
            if weight > before.weight:
                before.weight = weight
            if coarsest < before.coarsest:
                before.coarsest = coarsest
            if use > before.last_use:
                before.last_use = use
            before.merges |= merges
            before.resampling |= resampling
