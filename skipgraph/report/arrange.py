"""How a drawing is laid out: an encoder-decoder as a U, a long chain of stages as a snake, anything else top down.

Both are columns that are read down, up, down, up, …; in a U the long skips tie the two columns together level by
level, in a snake the columns are tied where they turn.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import Literal

import networkx as nx

from skipgraph.report.drawing import Arrow, Drawing, Frame

TALL = 13  # ranks that are still drawn in one column
COLUMN_WIDTH, RANK_HEIGHT = 3.2, 0.85  # of a typical column and rank, in inches
ASPECT = 1.5  # width over height that a page or a slide likes
SAME_RESOLUTION = 1.5  # factor between numbers of positions that are one resolution
COLUMN_COST = 2  # ranks that one more column must save
WORTH_BENDING = 0.7  # share of all ranks that the tallest column may have
MOST_CROSSING = 2  # tensors that may flow from one column to the next

Direction = Literal["down", "up", "none"]


@dataclass(slots=True)
class Arrangement:
    """What the layout is told beyond boxes and arrows.

    Attributes
    ----------
    column : dict of str to int
        The column of every box; odd columns are read upward.
    levels : list of list of str
        Boxes that are drawn at one height, from left to right.
    arms : bool
        The columns are the arms of a U, tied together by ``levels``.
    """

    column: dict[str, int] = field(default_factory=dict)
    levels: list[list[str]] = field(default_factory=list)
    arms: bool = False

    def direction(self, arrow: Arrow) -> Direction:
        """How an arrow bears on the heights of its ends."""
        if arrow.style.role == "side":
            return "none"
        before, after = self.column.get(arrow.tail, 0), self.column.get(arrow.head, 0)
        if before == after:
            level = any(arrow.tail in level and arrow.head in level for level in self.levels)
            tied = arrow.style.role == "skip" and any(arrow.head in level for level in self.levels)
            if self.arms and (level or (tied and before % 2)):
                return "none"
            return "up" if before % 2 else "down"
        return "up" if self.arms and not arrow.style.long else "none"


def arrange(drawing: Drawing) -> Arrangement:
    """The arrangement of a drawing."""
    flow = nx.DiGraph()
    flow.add_nodes_from(drawing.boxes)
    flow.add_edges_from((arrow.tail, arrow.head) for arrow in drawing.arrows)
    return _as_u(drawing, flow) or _as_snake(drawing, flow) or Arrangement()


@dataclass(frozen=True, slots=True)
class _LongSkip:
    """A long skip in a drawing: from the box ``source``, by ``last`` (often the same), to the box ``merge``."""

    source: str
    last: str
    merge: str


def _as_u(drawing: Drawing, flow: nx.DiGraph) -> Arrangement | None:
    """A U, if long skips span a path that turns back: one round a coarser resolution, or two or more nested."""
    long = sorted(_long_skips(drawing), key=lambda skip: drawing.boxes[skip.merge].order)
    right = _right_arm(drawing, flow, long)
    levels: dict[str, list[str]] = {}
    for skip in long:
        if skip.merge in right and skip.source not in right:
            level = levels.setdefault(skip.source, [skip.source])
            on_the_way = flow.has_edge(skip.source, skip.last)
            level += [skip.last, skip.merge] if on_the_way else [skip.merge]
    if not levels:
        return None
    return Arrangement({name: int(name in right) for name in drawing.boxes}, list(levels.values()), arms=True)


def _long_skips(drawing: Drawing) -> Iterator[_LongSkip]:
    stems = {a.head: a.tail for a in drawing.arrows if a.style.long and not a.skips}
    for arrow in drawing.arrows:
        if arrow.style.long and arrow.skips:
            source = arrow.tail
            while source in stems and stems[source] != source:
                source = stems.pop(source)
            yield _LongSkip(source, arrow.tail, arrow.head)


def _right_arm(drawing: Drawing, flow: nx.DiGraph, long: list[_LongSkip]) -> set[str]:
    """The boxes that are read upward: after an upsampling, or at one resolution after the innermost of nested skips."""
    order = {name: box.order for name, box in drawing.boxes.items()}
    finer = _after_upsampling(drawing, flow, long)
    ends = sorted((order[skip.source], -order[skip.merge]) for skip in long)
    nested = len(ends) > 1 and all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(ends))
    arm = set(finer)
    for skip in long:
        around = [s for s in long if order[s.source] < order[skip.source] and order[s.merge] > order[skip.merge]]
        if nested or any(outer.merge in finer for outer in around):
            arm |= {skip.merge} | nx.descendants(flow, skip.merge)
    return arm


def _after_upsampling(drawing: Drawing, flow: nx.DiGraph, long: list[_LongSkip]) -> set[str]:
    """The boxes that follow from an upsampling that a long skip bypasses."""
    boxes = drawing.boxes
    finer: set[str] = set()
    for skip in long:
        for head in nx.descendants(flow, skip.source) & (nx.ancestors(flow, skip.merge) | {skip.merge}):
            finest = max(boxes[tail].positions for tail in flow.predecessors(head))
            if boxes[head].positions > SAME_RESOLUTION * finest:
                finer |= {head} | nx.descendants(flow, head)
    return finer


def _as_snake(drawing: Drawing, flow: nx.DiGraph) -> Arrangement | None:
    """Columns of equal height, if one would be too tall, broken where little flows from one member to the next."""
    if not nx.is_directed_acyclic_graph(flow):
        return None
    rank: dict[str, int] = dict.fromkeys(flow, 0)
    for name in nx.topological_sort(flow):
        for head in flow.successors(name):
            rank[head] = max(rank[head], rank[name] + 1)
    height = max(rank.values(), default=0) + 1
    if height <= TALL:
        return None
    groups = [m.boxes() if isinstance(m, Frame) else [m] for m in drawing.members]
    columns = max(2, round(math.sqrt(ASPECT * height * RANK_HEIGHT / COLUMN_WIDTH)))
    heights = [_height(rank, group) for group in groups]
    breaks = _breaks(heights, set(_narrow(drawing, groups)), columns)
    tallest = max(sum(heights[a:b]) for a, b in pairwise((0, *breaks, len(groups))))
    if tallest > WORTH_BENDING * height:
        return None
    column = {name: sum(at <= i for at in breaks) for i, group in enumerate(groups) for name in group}
    return Arrangement(column, list(_bends(drawing, column)))


def _height(rank: dict[str, int], group: list[str]) -> int:
    return max(rank[name] for name in group) - min(rank[name] for name in group) + 1


def _narrow(drawing: Drawing, groups: list[list[str]]) -> Iterator[int]:
    """The places between groups that few tensors cross."""
    place = {name: i for i, group in enumerate(groups) for name in group}
    for at in range(1, len(groups)):
        crossing = {a.tail for a in drawing.arrows if place[a.tail] < at <= place[a.head]}
        backward = any(place[a.head] < at <= place[a.tail] for a in drawing.arrows)
        long = any(place[a.tail] < at <= place[a.head] for a in drawing.arrows if a.style.long)
        if 1 <= len(crossing) <= MOST_CROSSING and not backward and not long:
            yield at


def _breaks(heights: list[int], allowed: set[int], columns: int) -> tuple[int, ...]:
    """At most ``columns - 1`` of the ``allowed`` places that make the tallest column as low as possible."""

    @cache
    def best(start: int, left: int) -> tuple[int, tuple[int, ...]]:
        whole = sum(heights[start:])
        options: list[tuple[int, tuple[int, ...]]] = [(whole, ())]
        if left > 1:
            for at in sorted(a for a in allowed if a > start):
                rest, breaks = best(at, left - 1)
                options.append((max(sum(heights[start:at]), rest), (at, *breaks)))
        return min(options, key=lambda option: (option[0] + COLUMN_COST * len(option[1]), option[1]))

    return best(0, columns)[1]


def _bends(drawing: Drawing, column: dict[str, int]) -> Iterator[list[str]]:
    """Where each column turns into the next: the last box of one and the first of the other, at one height."""
    seen: set[int] = set()
    for arrow in sorted(drawing.arrows, key=lambda a: drawing.boxes[a.head].order):
        before, after = column[arrow.tail], column[arrow.head]
        if after == before + 1 and after not in seen:
            seen.add(after)
            yield [arrow.tail, arrow.head]
