"""Slices of one tensor: those that are put together again beside each other are no skip."""

from __future__ import annotations

from skipgraph.skips.region import Region


def open_ends(region: Region, slot: int) -> int:
    """The slots where a main path may end that bypasses the stem of ``slot``.

    All but this one and, in a concat, those that read a slice of a tensor of which this one reads only other slices
    (split and rejoined).
    "Only" is meant of all that the operand reads: the tensor dominates it. A dual-path network's dense part reads
    slices of what its blocks compute as well, and is no part of a split.
    """
    ends = region.all_slots & ~(1 << slot)
    if region.candidate.concat and region.slices:
        for tensor, (pieces, whole) in region.sliced.items():
            mine = [part for part, reached in pieces if reached >> slot & 1]
            if not mine or whole >> slot & 1 or not _dominated(region, slot, tensor):
                continue
            for part, reached in pieces:
                if not reached >> slot & 1 and all(_apart(part, own) for own in mine):
                    ends &= ~reached
    return ends


def _dominated(region: Region, slot: int, tensor: int) -> bool:
    """Whether every path to an operand comes through ``tensor``."""
    preds = region.signal.preds
    stack = [region.candidate.slots[slot].node]
    seen = set(stack)
    while stack:
        node = stack.pop()
        if node < tensor or not preds[node]:
            return False
        new = [pred for pred in preds[node] if pred != tensor and pred not in seen]
        seen.update(new)
        stack += new
    return True


def disjoint(region: Region, start: int, stem_starts: list[int], source: int, slot: int) -> bool:
    """Whether a main path starts with a slice of the source disjoint from all that the stem starts with."""
    slices = region.signal.slices
    part = slices[start]
    if part is None or source == region.candidate.slots[slot].node:
        return False
    others = [slices[node] for node in stem_starts]
    return bool(others) and all(other is not None and _apart(part, other) for other in others)


def _apart(a: tuple[int, int, int], b: tuple[int, int, int]) -> bool:
    """Whether two slices (axis, start, stop) share no element."""
    return a[0] == b[0] and (a[2] <= b[1] or b[2] <= a[1])
