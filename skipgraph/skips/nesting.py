"""Labels that decide nothing: how deep a skip is nested, whether it is dense."""

from __future__ import annotations

from skipgraph.graph.types import Merge
from skipgraph.skips.judge import Verdict
from skipgraph.skips.signal import Signal


def label_nesting(signal: Signal, merges: list[Merge], verdicts: dict[str, Verdict]) -> None:
    """Fill ``nesting`` and ``dense`` of every skip.

    ``nesting`` counts the skips whose main path holds the merge of this one. ``dense``: the main path holds merges,
    and every one of them is fed by the source too.
    """
    number = {merge.id: place for place, merge in enumerate(merges)}
    fed = _fed_merges(signal)
    changes = [0] * (len(merges) + 1)
    for merge in merges:
        base = number[merge.id]
        for skip in merge.skips:
            verdict = verdicts[skip.id]
            for low, high in _runs(verdict.enclosed):
                # Bit k stands for the merge k places before this one.
                changes[base - high + 1] += 1
                changes[base - low + 1] -= 1
            skip.dense = bool(verdict.enclosed) and _all_fed(verdict, base, fed)
    depth = 0
    for merge, change in zip(merges, changes, strict=False):
        depth += change
        for skip in merge.skips:
            skip.nesting = depth


def _fed_merges(signal: Signal) -> dict[int, set[int]]:
    """Node -> numbers of the merges that it feeds directly."""
    fed: dict[int, set[int]] = {}
    for number, candidate in enumerate(signal.candidates.values()):
        for slot in candidate.slots:
            fed.setdefault(slot.node, set()).add(number)
    return fed


def _all_fed(verdict: Verdict, base: int, fed: dict[int, set[int]]) -> bool:
    own = fed.get(verdict.source, set())
    if verdict.enclosed.bit_count() > len(own):
        return False
    return all(base - offset in own for low, high in _runs(verdict.enclosed) for offset in range(low, high))


def _runs(mask: int) -> list[tuple[int, int]]:
    """Runs of set bits as half-open ranges, lowest first."""
    runs = []
    start = 0
    while mask:
        zeros = (mask & -mask).bit_length() - 1
        mask >>= zeros
        ones = ((mask + 1) & -(mask + 1)).bit_length() - 1
        mask >>= ones
        runs.append((start + zeros, start + zeros + ones))
        start += zeros + ones
    return runs
