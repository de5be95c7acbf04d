"""The region between a merge and its farthest fork, swept once from the merge backwards."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from functools import cached_property

from skipgraph.skips.signal import Candidate, Signal


class Region:
    """What a sweep has seen of the ancestors of one merge.

    The sweep pops nodes in reverse order of execution, so that whatever it knows of a popped node is final: all paths
    from there to the merge have been walked. It ends as soon as no open node can fork off to an operand that still
    looks for its source; for a residual block that is the block, however long the network before it.

    Attributes
    ----------
    reaches : dict
        Node -> bitmask of the slots of the merge that it reaches.
    following : dict
        Node -> the nodes of the region that read it, latest first.
    slots_at : dict
        Node -> bitmask of the slots that it feeds directly.
    weight : dict
        Node -> most layer operators behind it on one path to a slot.
    coarsest : dict
        Node -> fewest positions behind it on any path to a slot.
    merges : dict
        Node -> bitmask of the merges behind it, by number counted back from ``base``.
    last_use : dict
        Node -> the last node of the region that reads it, bundles seen through.
    """

    def __init__(self, signal: Signal, candidate: Candidate, ordinal: dict[int, int]) -> None:
        self.signal = signal
        self.candidate = candidate
        self.positions = signal.positions[candidate.node]
        self.reaches: dict[int, int] = {}
        self.following: dict[int, list[int]] = {}
        self.slots_at: dict[int, int] = {}
        self.weight: dict[int, int] = {}
        self.coarsest: dict[int, int] = {}
        self.merges: dict[int, int] = {}
        self.last_use: dict[int, int] = {}
        self.slices = self.sums = False  # whether any was met
        self._resamplers: list[int] = []
        self._resampling: dict[int, int] = {}  # node -> bitmask of the resamplers behind it
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
            self.all_slots |= 1 << place
            self._reach(slot.node, 1 << place)
            self.slots_at[slot.node] = self.slots_at.get(slot.node, 0) | 1 << place

    def _reach(self, node: int, slots: int) -> None:
        known = self.reaches.get(node)
        if known is None:
            self.reaches[node] = slots
            self.following[node] = []
            self.weight[node] = 0
            self.coarsest[node] = self.positions
            self.merges[node] = 0
            self.last_use[node] = -1
            self._resampling[node] = 0
            heapq.heappush(self._open, -node)
        elif known | slots != known:
            self.reaches[node] = known | slots

    def sweep(self, visit: Callable[[int], int]) -> None:
        """Pop nodes until nothing is left to find.

        ``visit(node)`` judges a popped fork and returns the slots that still look for their source.
        """
        wanted = self.all_slots
        witness = -1  # an open node that may yet fork off, or have ancestors that do, from a wanted slot
        reaches = self.reaches
        while self._open and wanted:
            if witness < 0 or -self._open[0] == witness or not wanted & ~reaches[witness]:
                witness = next((-entry for entry in self._open if wanted & ~reaches[-entry]), -1)
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

    def carrying(self, node: int) -> list[int]:
        """The operands of ``node`` that do more than condition it."""
        preds = self.signal.preds[node]
        if self.positions > 1:
            return [pred for pred in preds if not self.signal.conditioning[pred]]
        return preds

    def stem_weight(self, node: int, slot: int) -> int:
        """Most layer operators behind ``node`` on one path to ``slot``, for a popped node that reaches it."""
        weights, done = self._stem_weights.get(slot, ({}, 0))
        bit = 1 << slot
        layer, reaches, following = self.signal.layer, self.reaches, self.following
        for other in self.order[done:]:
            if reaches[other] & bit:
                heaviest = 0
                for after in following[other]:
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
        mask = self._resampling[node]
        return [other for place, other in enumerate(self._resamplers) if mask >> place & 1]

    def bit_of(self, merge: int) -> int:
        """The bit that stands for ``merge`` in the masks of `merges`."""
        return 1 << (self.base - self._ordinal[merge])

    @cached_property
    def sliced(self) -> dict[int, tuple[list[tuple[tuple[int, int, int], int]], int]]:
        """Tensor -> its slices with the slots that these reach, and the slots reached from the whole of it."""
        found: dict[int, tuple[list[tuple[tuple[int, int, int], int]], int]] = {}
        for node in self.reaches:
            after = self.following[node]
            parts = [(part, self.reaches[n]) for n in after if (part := self.signal.slices[n]) is not None]
            if parts:
                whole = self.slots_at.get(node, 0)
                for n in after:
                    if self.signal.slices[n] is None:
                        whole |= self.reaches[n]
                found[node] = (parts, whole)
        return found

    def _pass_on(self, node: int) -> None:
        signal = self.signal
        slots = self.reaches[node]
        is_merge = node in signal.candidates
        weight = self.weight[node] + signal.layer[node]
        coarsest = min(self.coarsest[node], signal.positions[node]) if signal.names[node] else self.coarsest[node]
        merges = self.merges[node]
        if is_merge:
            merges |= self.bit_of(node)
            self.sums = self.sums or not signal.candidates[node].concat
        resampling = self._resampling[node]
        if signal.resamples[node]:
            resampling |= 1 << len(self._resamplers)
            self._resamplers.append(node)
        self.slices = self.slices or signal.slices[node] is not None
        use = node if signal.names[node] else self.last_use[node]
        heaviest, smallest, last_use = self.weight, self.coarsest, self.last_use  # looked up once: this runs most
        reaches = self.reaches
        for pred in self.carrying(node):
            known = reaches.get(pred)
            if known is None:
                self._reach(pred, slots)
            else:
                reaches[pred] = known | slots
            ways = self.following[pred]
            ways.append(node)
            if len(ways) > 1 or pred in self.slots_at:
                self._open_forks.add(pred)
            if weight > heaviest[pred]:
                heaviest[pred] = weight
            if coarsest < smallest[pred]:
                smallest[pred] = coarsest
            self.merges[pred] |= merges
            self._resampling[pred] |= resampling
            if use > last_use[pred]:
                last_use[pred] = use
