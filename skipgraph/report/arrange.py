"""How a drawing is laid out: an encoder-decoder as a U, a long chain of stages as a snake, anything else top down.

Both are columns that are read down, up, down, up, …; in a U the long skips tie the two columns together level by
level, in a snake the columns are tied where they turn.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache

import networkx as nx

from skipgraph.report.drawing import Arrow, Drawing, Frame

TALL = 13  # ranks that are still drawn in one column
COLUMN_WIDTH, RANK_HEIGHT = 3.2, 0.85  # of a typical column and rank, in inches
ASPECT = 1.5  # width over height that a page or a slide likes
MOST_CROSSING = 2  # tensors that may flow from one column to the next


@dataclass(slots=True)
class Arrangement:
    """What the layout is told beyond boxes and arrows.

    Attributes
    ----------
    column : dict of str to int
        The column of every box; odd columns are read upward.
    levels : list of list of str
        Boxes that are drawn at one height.
    turns : bool
        The columns are the arms of a U: the right arm is ranked by what flows into it from the left.
    """

    column: dict[str, int] = field(default_factory=dict)
    levels: list[list[str]] = field(default_factory=list)
    turns: bool = False

    def upward(self, name: str) -> bool:
        """Whether a box is drawn above the boxes that it reads from."""
        return self.column.get(name, 0) % 2 == 1


def arrange(drawing: Drawing) -> Arrangement:
    """The arrangement of a drawing."""
    flow = nx.DiGraph()
    flow.add_nodes_from(drawing.boxes)
    flow.add_edges_from((arrow.tail, arrow.head) for arrow in drawing.arrows)
    return _as_u(drawing, flow) or _as_snake(drawing, flow) or Arrangement()


def _as_u(drawing: Drawing, flow: nx.DiGraph) -> Arrangement | None:
    """A U, if long skips span a path that turns back: two or more nested, or one round a coarser resolution."""
    long = [a for a in drawing.arrows if a.style.long and a.skips]
    if not long:
        return None
    order = {name: box.order for name, box in drawing.boxes.items()}
    innermost = min(long, key=lambda a: (order[a.head], -order[a.tail]))
    right = _right_arm(drawing, flow, innermost)
    rungs = [a for a in long if a.head in right and a.tail not in right]
    if len({a.head for a in rungs}) < 2 and not _turns(drawing, flow, innermost):
        return None
    levels: dict[str, list[str]] = {}
    for arrow in sorted(rungs, key=lambda a: order[a.head]):
        levels.setdefault(arrow.tail, [arrow.tail]).append(arrow.head)
    return Arrangement({name: int(name in right) for name in drawing.boxes}, list(levels.values()), turns=True)


def _bypassed(flow: nx.DiGraph, arrow: Arrow) -> set[str]:
    return nx.descendants(flow, arrow.tail) & nx.ancestors(flow, arrow.head)  # type: ignore[no-any-return]


def _positions(drawing: Drawing, name: str) -> int:
    """Spatial positions of a box's result, as far as its shape alone tells."""
    return math.prod(drawing.boxes[name].shape[2:])


def _turns(drawing: Drawing, flow: nx.DiGraph, arrow: Arrow) -> bool:
    return any(_positions(drawing, n) < _positions(drawing, arrow.head) for n in _bypassed(flow, arrow))


def _right_arm(drawing: Drawing, flow: nx.DiGraph, innermost: Arrow) -> set[str]:
    """The innermost long merge, all that follows from it, and what climbs to it from the coarsest box."""
    arm: set[str] = {innermost.head} | nx.descendants(flow, innermost.head)
    inner = sorted(_bypassed(flow, innermost), key=lambda name: drawing.boxes[name].order)
    if inner and _turns(drawing, flow, innermost):
        coarsest = min(_positions(drawing, name) for name in inner)
        last = max(i for i, name in enumerate(inner) if _positions(drawing, name) == coarsest)
        arm |= set(inner[last + 1 :])
    return arm


def _as_snake(drawing: Drawing, flow: nx.DiGraph) -> Arrangement | None:
    """Columns of equal height, if one would be too tall, broken where little flows from one member to the next."""
    if not nx.is_directed_acyclic_graph(flow):
        return None
    rank = {name: 0 for name in flow}
    for name in nx.topological_sort(flow):
        for head in flow.successors(name):
            rank[head] = max(rank[head], rank[name] + 1)
    height = max(rank.values(), default=0) + 1
    if height <= TALL:
        return None
    groups = [m.boxes() if isinstance(m, Frame) else [m] for m in drawing.members]
    columns = max(2, round(math.sqrt(ASPECT * height * RANK_HEIGHT / COLUMN_WIDTH)))
    breaks = _breaks([_height(rank, g) for g in groups], set(_narrow(drawing, groups)), columns)
    if not breaks:
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
        if 1 <= len(crossing) <= MOST_CROSSING and not backward:
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
        return min(options, key=lambda option: (option[0], len(option[1])))

    return best(0, columns)[1]


def _bends(drawing: Drawing, column: dict[str, int]) -> Iterator[list[str]]:
    """Where each column turns into the next: the last box of one and the first of the other, at one height."""
    seen: set[int] = set()
    for arrow in sorted(drawing.arrows, key=lambda a: drawing.boxes[a.head].order):
        before, after = column[arrow.tail], column[arrow.head]
        if after == before + 1 and after not in seen:
            seen.add(after)
            yield [arrow.tail, arrow.head]
