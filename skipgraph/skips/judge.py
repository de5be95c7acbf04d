"""Is this operand a shortcut from this node? Conditions 1 to 5 and S, La, Lb of section 2 of the design."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from skipgraph.graph.roles import SAME_RESOLUTION
from skipgraph.skips.paths import Paths, around, between, heaviest_through
from skipgraph.skips.pieces import disjoint, open_ends
from skipgraph.skips.region import Region
from skipgraph.skips.signal import Signal


@dataclass(slots=True)
class Verdict:
    """What was found out about one operand and one node that forks off from it."""

    source: int
    slot: int
    reason: str = "skip"  # or why it is no shortcut
    long: bool = False
    projected: bool = False
    gated: bool = False
    bypassed_layers: int = 0
    coarsest: int = 0  # fewest positions on the main path
    enclosed: int = 0  # bitmask of merges on the main path
    leaves_last: int = -1  # the last node by which the main path leaves the source
    stem: list[int] = field(default_factory=list)


# How far a failed operand came: the furthest reason is the one worth telling.
_PROGRESS = ("fusion", "slices", "conditioning", "parallel_branches", "product", "linear_branches", "resampled_concat")


def furthest(reasons: Iterable[str]) -> str:
    """The most telling of several reasons why operands are no shortcuts."""
    return max(reasons, key=_PROGRESS.index, default="fusion")


def similar(a: int, b: int) -> bool:
    """One resolution: equal within a factor of 1.5."""
    return max(a, b) <= SAME_RESOLUTION * min(a, b)


class Judge:
    """Judges the operands of one merge.

    ``additive`` maps earlier sums with skips to the sources of these, ``shortcuts`` earlier concats to the operands
    that are shortcuts.
    """

    def __init__(
        self, signal: Signal, region: Region, additive: dict[int, set[int]], shortcuts: dict[int, set[int]]
    ) -> None:
        self.signal = signal
        self.region = region
        self.additive = additive
        self.shortcuts = shortcuts
        self._excluded: set[int] | None = None

    def judge(self, source: int, slot: int) -> Verdict:
        """The verdict on ``slot`` and ``source``, which reaches it and from which another way leads elsewhere."""
        region, bit = self.region, 1 << slot
        if self.signal.positions[source] <= 1 < region.positions:
            return Verdict(source, slot, "conditioning")
        if source == region.candidate.slots[slot].node and region.simple:
            return self._simple(source, slot)
        at = region.at
        leaving = [node for node in at[source].following if not at[node].reaches & bit]
        direct = at[source].slots & ~bit
        if self._most_bypassed(leaving) <= region.stem_weight(source, slot):
            return Verdict(source, slot, "parallel_branches")
        return self._careful(source, slot, leaving, direct)

    def _simple(self, source: int, slot: int) -> Verdict:
        """An operand that forks off itself, in a region without slices or sums: what the sweep summed up decides."""
        region, passed = self.region, self.region.at[source]
        verdict = Verdict(source, slot, gated=region.candidate.slots[slot].gated)
        if passed.weight == 0:
            verdict.reason = "parallel_branches"
            return verdict
        low, high = sorted((self.signal.positions[source], region.positions))
        verdict.long = any(self._returns(node, low, high) for node in region.resampling_behind(source))
        verdict.bypassed_layers = passed.weight
        verdict.coarsest = passed.coarsest
        verdict.enclosed = passed.merges
        verdict.leaves_last = passed.last_use
        return verdict

    def _most_bypassed(self, leaving: list[int]) -> int:
        """No main path that leaves by these nodes has more layers."""
        at, layer = self.region.at, self.signal.layer
        return max([at[node].weight + layer[node] for node in leaving], default=0)

    def _careful(self, source: int, slot: int, leaving: list[int], direct: int) -> Verdict:
        signal, region = self.signal, self.region
        bit = 1 << slot
        verdict = Verdict(source, slot)
        stem_starts = [node for node in region.at[source].following if region.at[node].reaches & bit]
        stem = between(region, source, stem_starts, bit, bit)
        stem_weight = region.stem_weight(source, slot)
        ends = open_ends(region, slot)
        starts = [node for node in leaving if not disjoint(region, node, stem_starts, source, slot)]
        main = between(region, source, starts, ends, ends)
        if not main.ends and not direct & ends:
            verdict.reason = "slices"
            return verdict
        main_weight = main.heaviest()
        if stem_weight >= main_weight:
            verdict.reason = "parallel_branches"
            return verdict
        if any(signal.product[node] for node in stem.nodes):
            verdict.reason = "product"
            return verdict
        short = self._short(stem, main, stem_weight)
        verdict.long = self._round_trip(source, stem, main, stem_weight) or self._nested(
            source, stem, main, stem_weight, main_weight
        )
        if short is not None and not verdict.long:
            verdict.reason = short
            return verdict
        self._describe(verdict, stem, main)
        return verdict

    def _describe(self, verdict: Verdict, stem: Paths, main: Paths) -> None:
        """Fill in what a shortcut is like and what it bypasses."""
        signal, region = self.signal, self.region
        slot = region.candidate.slots[verdict.slot]
        verdict.stem = stem.nodes
        verdict.projected = any(signal.projects[node] for node in stem.nodes)
        verdict.gated = slot.gated or any(signal.gated[node] for node in stem.nodes)
        verdict.bypassed_layers = main.heaviest()
        verdict.coarsest = min((signal.positions[n] for n in main.nodes if signal.names[n]), default=region.positions)
        for node in main.nodes:
            if node in signal.candidates:
                verdict.enclosed |= region.bit_of(node)
        inside = set(main.nodes)
        uses = [
            node if signal.names[node] else region.at[node].last_use
            for node in region.at[verdict.source].following
            if node in inside
        ]
        verdict.leaves_last = max(uses, default=-1)

    # -- S, La, Lb ---------------------------------------------------------------------------------------------------

    def _short(self, stem: Paths, main: Paths, stem_weight: int) -> str | None:
        """None if S holds, else why not."""
        signal = self.signal
        behind_layer: set[int] = set()
        for node in stem.nodes:
            after = any(pred in behind_layer for pred in signal.preds[node])
            if signal.tangled[node] or (after and signal.nonlinear[node]):
                return "parallel_branches"
            if after or signal.layer[node]:
                behind_layer.add(node)
        if stem_weight and not any(signal.nonlinear[node] for node in main.nodes):
            return "linear_branches"
        if self.region.candidate.concat and not stem_weight and any(signal.projects[node] for node in stem.nodes):
            return "resampled_concat"
        return None

    def _round_trip(self, source: int, stem: Paths, main: Paths, stem_weight: int) -> bool:
        """La: the main path goes to another resolution and comes back."""
        signal, region = self.signal, self.region
        at_source, at_merge = signal.positions[source], region.positions
        low, high = min(at_source, at_merge), max(at_source, at_merge)
        returns = [node for node in main.nodes if self._returns(node, low, high)]
        if not returns:
            return False
        if 2 * stem_weight > heaviest_through(region, main, returns):
            return False
        return self._plain_stem(source, stem, low, high)

    def _returns(self, node: int, low: int, high: int) -> bool:
        """An upsampling from below both ends, or a downsampling from above both."""
        signal = self.signal
        if not signal.resamples[node] or not signal.preds[node]:
            return False
        before, after = signal.positions[signal.preds[node][0]], signal.positions[node]
        if after > before:
            return before * SAME_RESOLUTION < low
        return before > high * SAME_RESOLUTION

    def _plain_stem(self, source: int, stem: Paths, low: int, high: int) -> bool:
        """The stem is entered only through the source, and resamples within the range of the two ends."""
        signal = self.signal
        inside = {source, *stem.nodes}
        for node in stem.nodes:
            if any(pred not in inside for pred in self.region.carrying[node]):
                return False
            if signal.resamples[node]:
                at = signal.positions[node]
                if at * SAME_RESOLUTION < low or at > high * SAME_RESOLUTION:
                    return False
        return True

    def through_concat(self, slot: int) -> Verdict | None:
        """La in nested U-Nets.

        The operand is a chain behind an earlier concat, a shortcut operand of which takes the round trip to another
        operand of this merge.
        The chain alone is the stem here: the earlier concat's own round trip belongs to neither path.
        """
        signal, region = self.signal, self.region
        stem = self._chain_to_concat(slot) if region.resamples else []
        if not stem:
            return None
        inside = {node: sum(signal.layer[n] for n in stem[: place + 1]) for place, node in enumerate(stem)}
        for source in sorted(self.shortcuts.get(stem[0], ()), reverse=True):
            if source not in region.at or not similar(signal.positions[source], region.positions):
                continue
            main = around(region, source, set(stem), open_ends(region, slot))
            verdict = self._judged_chain(source, slot, Paths(stem, inside, {stem[-1]: 1}), main)
            if verdict is not None:
                return verdict
        return None

    def _chain_to_concat(self, slot: int) -> list[int]:
        """The nodes from the nearest concat with shortcuts to an operand, in order; empty if there is no such chain."""
        node = self.region.candidate.slots[slot].node
        chain = [node]
        while node not in self.shortcuts:
            carrying = self.region.carrying[node]
            if len(carrying) != 1:
                return []
            node = carrying[0]
            chain.append(node)
        return chain[::-1]

    def _judged_chain(self, source: int, slot: int, stem: Paths, main: Paths) -> Verdict | None:
        signal, region = self.signal, self.region
        stem_weight = stem.heaviest()
        if not main.nodes or stem_weight >= main.heaviest() or any(signal.product[node] for node in stem.nodes):
            return None
        at_merge = region.positions
        returns = [node for node in main.nodes if self._returns(node, at_merge, at_merge)]
        if not returns or 2 * stem_weight > heaviest_through(region, main, returns):
            return None
        verdict = Verdict(source, slot, long=True)
        self._describe(verdict, stem, main)
        return verdict

    def _nested(self, source: int, stem: Paths, main: Paths, stem_weight: int, main_weight: int) -> bool:
        """Lb: two additive skips in series on the main path."""
        signal, region = self.signal, self.region
        linear = not any(signal.nonlinear[node] for node in stem.nodes)
        if not linear and (2 * stem_weight > main_weight or similar(signal.positions[source], region.positions)):
            return False
        inside = {signal.fork(source), *main.nodes}
        excluded = self._fed_sums()
        series: dict[int, int] = {}
        for node in main.nodes:
            count = max((series.get(pred, 0) for pred in signal.preds[node]), default=0)
            if node not in excluded and self.additive.get(node, _NOTHING) & inside:
                count += 1
                if count == 2:
                    return True
            series[node] = count
        return False

    def _fed_sums(self) -> set[int]:
        """Sums that are, up to non-layer operators, operands of the merge and feed another operand too."""
        if self._excluded is None:
            signal, region = self.signal, self.region
            self._excluded = set()
            for place, slot in enumerate(region.candidate.slots):
                node = slot.node
                while node in region.at:
                    if node in self.additive:
                        if region.at[node].reaches & ~(1 << place):
                            self._excluded.add(node)
                        break
                    if signal.layer[node] or len(signal.preds[node]) != 1:
                        break
                    node = signal.preds[node][0]
        return self._excluded


_NOTHING: frozenset[int] = frozenset()
