"""SkipGraph -> merges and skips."""

from __future__ import annotations

from skipgraph.collection import no_collection
from skipgraph.graph.types import Counts, Merge, Skip, SkipGraph
from skipgraph.skips.judge import Judge, Verdict, furthest
from skipgraph.skips.nesting import label_nesting
from skipgraph.skips.region import Region
from skipgraph.skips.signal import Candidate, Signal, read_signal


def find_skips(graph: SkipGraph) -> None:
    """Find every merge, gate and skip of ``graph`` and classify it.

    Fills ``graph.merges``, ``graph.gates``, ``graph.counts`` and the edge attribute ``skips``.

    Notes
    -----
    Each merge is judged from the region between it and its farthest fork alone, so the time is linear in the size of
    the graph plus the sum of the regions that skips bypass.
    """
    with no_collection():
        _find_skips(graph)


def _find_skips(graph: SkipGraph) -> None:
    detector = _Detector(graph)
    graph.merges = [detector.merge(candidate) for candidate in detector.signal.candidates.values()]
    graph.gates = detector.signal.gates
    label_nesting(detector.signal, graph.merges, detector.verdicts)
    graph.counts = count(graph.merges)
    for _, _, data in graph.edges(data=True):
        data["skips"] = ()
    for merge in graph.merges:
        for skip in merge.skips:
            for part in merge.nodes:
                for data in graph[skip.operand_node].get(part, {}).values():
                    data["skips"] = (*data["skips"], skip.id)


class _Detector:
    def __init__(self, graph: SkipGraph) -> None:
        self.graph = graph
        self.signal: Signal = read_signal(graph)
        self.ordinal = {node: number for number, node in enumerate(self.signal.candidates)}
        self.additive: dict[int, set[int]] = {}
        self.shortcuts: dict[int, set[int]] = {}
        self.leaves: dict[int, int] = {}
        self.verdicts: dict[str, Verdict] = {}

    def merge(self, candidate: Candidate) -> Merge:
        """Judge one merge; all earlier ones have been judged."""
        signal = self.signal
        name = signal.names[candidate.node]
        merge = Merge(
            id=name,
            node=name,
            kind="concat" if candidate.concat else "add",
            axis=candidate.axis,
            operands=tuple([slot.source for slot in candidate.slots]),
            nodes=candidate.nodes,
        )
        if not candidate.feature:
            merge.reason = "other_axis"
            return merge
        found, merge.reason = self._shortcuts(candidate)
        self.leaves[candidate.node] = sum(self._leaves(slot.node) for slot in candidate.slots)
        if found:
            merge.reason = "skip"
            merge.skips = [self._skip(merge, candidate, verdict) for verdict in found]
            self._classify(merge, candidate, found)
        return merge

    def _shortcuts(self, candidate: Candidate) -> tuple[list[Verdict], str]:
        """The shortcut operands, in operand order, and why there are none if so."""
        signal = self.signal
        region = Region(signal, candidate, self.ordinal)
        judge = Judge(signal, region, self.additive, self.shortcuts)
        wanted = region.all_slots
        for place, slot in enumerate(candidate.slots):
            if slot.barred:
                wanted &= ~(1 << place)
        found: dict[int, Verdict] = {}
        reasons: set[str] = set()

        def visit(node: int) -> int:
            nonlocal wanted
            open_slots = wanted & region.forking(node)
            while open_slots:
                place = (open_slots & -open_slots).bit_length() - 1
                open_slots &= open_slots - 1
                verdict = judge.judge(node, place)
                if verdict.reason == "skip":
                    verdict.source = signal.fork(node)
                    found[place] = verdict
                    wanted &= ~(1 << place)
                else:
                    reasons.add(verdict.reason)
            return wanted

        if candidate.concat:
            # Which slices its operands read is known only once all of them have been followed to their fork.
            forks: list[int] = []

            def note(node: int) -> int:
                forks.append(node)
                return region.all_slots

            region.sweep(note)
            for node in forks:
                if wanted:
                    visit(node)
            for place in range(len(candidate.slots)):
                if wanted >> place & 1 and (verdict := judge.through_concat(place)) is not None:
                    found[place] = verdict
        else:
            region.sweep(visit)
        return [found[place] for place in sorted(found)], furthest(reasons)

    def _leaves(self, node: int) -> int:
        """How many tensors an operand is a concat of."""
        candidate = self.signal.candidates.get(node)
        return self.leaves[node] if candidate and candidate.concat and candidate.feature else 1

    def _skip(self, merge: Merge, candidate: Candidate, verdict: Verdict) -> Skip:
        signal = self.signal
        slot = candidate.slots[verdict.slot]
        at_source = signal.positions[verdict.source]
        skip = Skip(
            id=f"{merge.id}:{verdict.slot}",
            merge=merge.id,
            source=signal.names[verdict.source],
            kind="concat" if candidate.concat else "gated" if verdict.gated else "add",
            span="long" if verdict.long else "short",
            shortcut="projected" if verdict.projected else "identity",
            operand=verdict.slot,
            operand_node=slot.source,
            stem=tuple([name for node in verdict.stem for name in signal.members[node]]),
            leaves_last=signal.members[verdict.leaves_last][0] if verdict.leaves_last >= 0 else "",
            edges=self._leaves(slot.node) if candidate.concat else 1,
            bypassed_layers=verdict.bypassed_layers,
            coarsest_scale=min(1.0, verdict.coarsest / at_source) if at_source else 1.0,
        )
        self.verdicts[skip.id] = verdict
        return skip

    def _classify(self, merge: Merge, candidate: Candidate, found: list[Verdict]) -> None:
        skips = merge.skips
        merge.span = "long" if any(skip.span == "long" for skip in skips) else "short"
        merge.shortcut = "identity" if any(skip.shortcut == "identity" for skip in skips) else "projected"
        if candidate.concat:
            self.shortcuts[candidate.node] = {candidate.slots[verdict.slot].node for verdict in found}
        else:
            self.additive[candidate.node] = {verdict.source for verdict in found}
            if all(skip.kind == "gated" for skip in skips):
                merge.kind = "gated"


def count(merges: list[Merge]) -> Counts:
    """Section 2's counts: every shortcut operand of a sum singly, a concat once."""
    counts = Counts()
    for merge in merges:
        if not merge.skips:
            continue
        counts.edges += sum(skip.edges for skip in merge.skips)
        units = [(merge.kind, merge.span, merge.shortcut)]
        if merge.kind != "concat":
            units = [(skip.kind, skip.span, skip.shortcut) for skip in merge.skips]
        for unit in units:
            counts.skips += 1
            for word in unit:
                setattr(counts, str(word), getattr(counts, str(word)) + 1)
    return counts
