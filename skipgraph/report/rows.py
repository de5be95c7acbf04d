"""Skips as rows of a table: one a skip, those that differ in one number alone taken together."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from skipgraph.graph import Merge, Skip, SkipGraph

_NUMBER = re.compile(r"(\d+)")


@dataclass(slots=True)
class Row:
    """One skip, or several that are alike.

    Attributes
    ----------
    name : str
        Id of the merge, "layer3.1–5.add" for several.
    merges : list of Merge
        One for each skip.
    skips : list of list of Skip
        For each skip of the row, its shortcut operands: one for a sum, one or more for a concat.
    """

    name: str
    merges: list[Merge]
    skips: list[list[Skip]]

    @property
    def first(self) -> Skip:
        """A skip that stands for all."""
        return self.skips[0][0]

    def source(self) -> str:
        """Where the shortcut starts, "layer3.0–4.relu" for several; "6 tensors" for a concat with as many shortcuts."""
        low, high = min(map(len, self.skips)), max(map(len, self.skips))
        if high > 1:
            return f"{low}–{high} tensors" if low != high else f"{high} tensors"
        return _join_sources([group[0].source for group in self.skips])

    def span(self) -> str:
        """A concat is long, and identity, if one of its shortcut operands is."""
        return "long" if any(skip.span == "long" for skip in self.skips[0]) else "short"

    def shortcut(self) -> str:
        """See `span`."""
        concat = self.merges[0].kind == "concat"
        return "identity" if concat and any(s.shortcut == "identity" for s in self.skips[0]) else self.first.shortcut

    def range(self, field: str, together: bool = False) -> tuple[int, int]:
        """Smallest and largest value of a field; ``together``: of its sum over the operands of one concat."""
        combine = sum if together else max
        values = [combine(getattr(skip, field) for skip in group) for group in self.skips]
        return min(values), max(values)

    def at_peak(self) -> int:
        """How many of the skips hold a tensor when memory is at its peak."""
        return sum(any(skip.held_at_peak for skip in group) for group in self.skips)


def rows(graph: SkipGraph, *, unfold: bool = False) -> list[Row]:
    """The skips of a graph as rows, in the order of execution; ``unfold``: one for every shortcut operand."""
    if unfold:
        return [Row(skip.id, [merge], [[skip]]) for merge in graph.merges for skip in merge.skips]
    found = [row for merge in graph.merges for row in _of(merge)]
    while len(joined := _together(found)) < len(found):  # blocks in stages in branches
        found = joined
    return found


def _of(merge: Merge) -> list[Row]:
    """A concat is one skip, a sum is one for each shortcut operand."""
    if merge.kind == "concat" and merge.skips:
        return [Row(merge.id, [merge], [merge.skips])]
    return [Row(merge.id, [merge], [[skip]]) for skip in merge.skips]


def _together(singles: Sequence[Row]) -> list[Row]:
    """Rows that are alike but for one number in their names, as one."""
    groups: dict[tuple[object, ...], list[list[int]]] = {}
    for place, row in enumerate(singles):
        runs = groups.setdefault(_key(row), [])
        if runs and _one_number_differs([singles[i].name for i in (*runs[-1][:2], place)]):
            runs[-1].append(place)
        else:
            runs.append([place])
    runs_in_order = sorted(run for runs in groups.values() for run in runs)
    return [_joined([singles[i] for i in run]) for run in runs_in_order]


def _key(row: Row) -> tuple[object, ...]:
    """What must be equal in two rows for one to stand for both; a dense block grows, so there sizes may differ."""
    skip = row.first
    dense = skip.dense and row.merges[0].kind == "concat"
    size = None if dense else (len(row.skips[0]), skip.bytes, skip.bypassed_layers, skip.nesting)
    return _NUMBER.sub("#", row.name), skip.kind, row.span(), row.shortcut(), size


def _one_number_differs(names: list[str]) -> bool:
    columns = zip(*(_NUMBER.split(name) for name in names), strict=True)
    return sum(len(set(column)) > 1 for column in columns) <= 1


def _joined(run: list[Row]) -> Row:
    if len(run) == 1:
        return run[0]
    merges = [merge for row in run for merge in row.merges]
    skips = [group for row in run for group in row.skips]
    return Row(join_names([row.name for row in run]), merges, skips)


def join_names(names: Sequence[str]) -> str:
    """Names that differ in one number, as one.

    Examples
    --------
    >>> join_names(["layer3.1.add", "layer3.2.add", "layer3.3.add"]), join_names(["b.1", "b.3"]), join_names(["x", "x"])
    ('layer3.1–3.add', 'b.1…3', 'x')
    """
    parts = [_NUMBER.split(name) for name in names]
    joined = []
    for column in zip(*parts, strict=True):
        if len(set(column)) == 1:
            joined.append(column[0])
            continue
        numbers = [int(text) for text in column]
        dense = all(b - a in (0, 1) for a, b in pairwise(numbers))
        joined.append(f"{numbers[0]}{'–' if dense else '…'}{numbers[-1]}")
    return "".join(joined)


def _join_sources(names: list[str]) -> str:
    """Sources as one; the first may be another kind of thing than the rest (the stem before a row of blocks)."""
    for head in (0, 1):
        rest = names[head:]
        if len({_NUMBER.sub("#", name) for name in rest}) == 1 and _one_number_differs(rest):
            return ", ".join([*names[:head], join_names(rest)])
    return f"{names[0]}, …"
