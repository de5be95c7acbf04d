"""Repeated blocks are drawn once, "× 12", with their skips.

A block is a run of sibling modules (and what their parent does between them). It is a repetition of the block before
it if it holds the same boxes in the same order, connected in the same way among themselves, to the block before and
to the world outside. What then flows from one repetition to the next is drawn as what flows into the first.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from itertools import groupby

from skipgraph.report.drawing import Arrow, Box, Frame, Style
from skipgraph.report.fold import parent_at, path_depth

LONGEST_PERIOD = 12
Item = list[str]  # ids of the boxes of one child module, or of one box that is the parent's own


@dataclass(slots=True)
class Sheet:
    """Boxes and arrows while they are being folded, indexed both ways."""

    boxes: dict[str, Box]
    modules: dict[str, str]
    into: dict[str, dict[tuple[str, Style], Arrow]] = field(default_factory=dict)
    out: dict[str, dict[tuple[str, Style], Arrow]] = field(default_factory=dict)

    def add(self, arrow: Arrow) -> None:
        """Add an arrow, or to an arrow."""
        known = self.into.setdefault(arrow.head, {}).get((arrow.tail, arrow.style))
        if known:
            _merge_arrows(known, arrow)
        else:
            self.into[arrow.head][arrow.tail, arrow.style] = arrow
            self.out.setdefault(arrow.tail, {})[arrow.head, arrow.style] = arrow

    def remove(self, arrow: Arrow) -> None:
        """Take an arrow out."""
        del self.into[arrow.head][arrow.tail, arrow.style]
        del self.out[arrow.tail][arrow.head, arrow.style]

    def arrows(self) -> list[Arrow]:
        """All arrows, in the order of their boxes."""
        found = [arrow for arrows in self.into.values() for arrow in arrows.values()]
        order = {name: box.order for name, box in self.boxes.items()}
        return sorted(found, key=lambda a: (order[a.tail], order[a.head], str(a.style)))


def fold_repetitions(
    boxes: dict[str, Box], arrows: list[Arrow], modules: dict[str, str], *, unfold: bool = False
) -> tuple[dict[str, Box], list[Arrow], list[Frame | str]]:
    """Boxes, arrows and frames with every repetition folded (``unfold``: frames alone)."""
    sheet = Sheet(boxes, modules)
    for arrow in arrows:
        sheet.add(arrow)
    order = sorted(boxes, key=lambda name: boxes[name].order)
    members = _fold_level(sheet, "", order, unfold)
    return sheet.boxes, sheet.arrows(), members


def _fold_level(sheet: Sheet, parent: str, names: list[str], unfold: bool) -> list[Frame | str]:
    """Fold what the module ``parent`` runs, its children first; returns its frames and boxes in order."""
    members: list[Frame | str] = []
    items: list[Item] = []
    for child, group in _children(sheet, parent, names):
        inside = list(group)
        if child is not None and len(inside) > 1:
            nested = _fold_level(sheet, child, inside, unfold)
            frame = Frame(child, child, members=nested)
            members.append(frame)
            items.append(frame.boxes())
        else:
            members += inside
            items += [[name] for name in inside]
    return members if unfold else _fold_items(sheet, parent, members, items)


def _children(sheet: Sheet, parent: str, names: list[str]) -> Iterator[tuple[str | None, Iterator[str]]]:
    """Consecutive boxes of the same child of ``parent``; None for boxes of the parent itself."""
    depth = path_depth(parent) + 1

    def child(name: str) -> str | None:
        module = sheet.boxes[name].module
        return parent_at(module, depth) if path_depth(module) >= depth else None

    return groupby(names, key=child)


def _fold_items(sheet: Sheet, parent: str, members: list[Frame | str], items: list[Item]) -> list[Frame | str]:
    """Find the tandem repetitions in a row of items and fold each."""
    signatures = [tuple(_signature(sheet, name) for name in item) for item in items]
    folded: list[Frame | str] = []
    at = 0
    while at < len(items):
        period, times = _repetition(sheet, items, signatures, at)
        if times < 2:
            folded.append(members[at])
            at += 1
            continue
        units = [[n for item in items[at + k * period : at + (k + 1) * period] for n in item] for k in range(times)]
        first, last = _span(sheet, parent, units)
        _contract(sheet, units)
        inner = members[at : at + period]
        if period == 1 and isinstance(inner[0], Frame):
            inner = inner[0].members
        folded.append(Frame(_between(first, last), first, times, inner))
        at += period * times
    return folded


def _signature(sheet: Sheet, name: str) -> Hashable:
    """What must be equal in two boxes for one to stand for both."""
    box = sheet.boxes[name]
    long_heads = frozenset(head for head, style in sheet.out.get(name, {}) if style.long)
    concat = box.merge is not None and box.merge.kind == "concat"
    merge: Hashable = None
    if box.merge:
        merge = (box.merge.kind, None if concat else tuple((s.span, s.shortcut, s.operand) for s in box.merge.skips))
    shape = None if concat else box.shape  # a dense block grows
    return sheet.modules.get(box.module, ""), box.pattern, merge, shape, box.times, long_heads


def _repetition(sheet: Sheet, items: list[Item], signatures: list[tuple[Hashable, ...]], at: int) -> tuple[int, int]:
    """``(period, times)`` of the shortest foldable repetition that starts at ``at``; times is 1 if there is none."""
    tried: list[int] = []
    for period in range(1, min(LONGEST_PERIOD, (len(items) - at) // 2) + 1):
        times = 1
        if any(period % shorter == 0 for shorter in tried):
            continue
        while signatures[at : at + period] == signatures[at + times * period : at + (times + 1) * period]:
            times += 1
        if times > 1:
            tried.append(period)
        while times > 1:
            units = [[n for item in items[at + k * period : at + (k + 1) * period] for n in item] for k in range(times)]
            possible = _foldable(sheet, units)
            if possible == times and times * len(units[0]) > 2:  # two single boxes are no block
                return period, times
            possible = min(possible, times - 1)
            times = possible
    return 1, 1


def _foldable(sheet: Sheet, units: list[list[str]]) -> int:
    """How many of ``units``, from the first, are connected alike (a lower bound is tried again by the caller)."""
    place = {name: (k, j) for k, unit in enumerate(units) for j, name in enumerate(unit)}
    template = [_incoming(sheet, name, place) for name in units[1]]
    for k, unit in enumerate(units[2:], start=2):
        if [_incoming(sheet, name, place) for name in unit] != template:
            return k
    for j, name in enumerate(units[0]):
        if not _may_be_first(_incoming(sheet, name, place), template[j]):
            return 1
    common = [_outgoing(sheet, name, place) for name in units[0]]
    for k, unit in enumerate(units[1:], start=1):
        for j, name in enumerate(unit):
            heads = _outgoing(sheet, name, place)
            if not heads >= common[j]:
                return k
            if k < len(units) - 1 and heads != common[j]:
                return k + 1
    return len(units)


Reference = tuple[Style, str, Hashable]


def _incoming(sheet: Sheet, name: str, place: dict[str, tuple[int, int]]) -> frozenset[Reference]:
    """The arrows into a box, told by where they come from: this repetition, one before, or outside."""
    k = place[name][0]
    found: set[Reference] = set()
    for tail, style in sheet.into.get(name, {}):
        if tail not in place:
            found.add((style, "outside", tail))
        else:
            other, j = place[tail]
            found.add((style, "inside", j) if other == k else (style, "before", (k - other, j)))
    return frozenset(found)


def _may_be_first(first: frozenset[Reference], later: frozenset[Reference]) -> bool:
    """Whether a box with arrows ``first`` can begin a row of boxes with arrows ``later``."""
    if any(where == "before" and reference[0] != 1 for _, where, reference in later):  # type: ignore[index]
        return False
    kept = {r for r in later if r[1] != "before"}
    handed_on = {r for r in later if r[1] == "before"}
    entering = first - kept
    return kept <= first and bool(entering) == bool(handed_on) and all(r[1] == "outside" for r in entering)


def _outgoing(sheet: Sheet, name: str, place: dict[str, tuple[int, int]]) -> frozenset[tuple[str, Style]]:
    """The arrows from a box to boxes outside all repetitions."""
    return frozenset(key for key in sheet.out.get(name, {}) if key[0] not in place)


def _contract(sheet: Sheet, units: list[list[str]]) -> None:
    """Draw all ``units`` as the first."""
    place = {name: (k, j) for k, unit in enumerate(units) for j, name in enumerate(unit)}
    first = units[0]
    moved = [arrow for unit in units for name in unit for arrow in [*sheet.into.get(name, {}).values()]]
    moved += [a for unit in units for n in unit for a in sheet.out.get(n, {}).values() if a.head not in place]
    for arrow in moved:
        sheet.remove(arrow)
    handed_on = []
    for arrow in moved:
        tail, head = place.get(arrow.tail), place.get(arrow.head)
        if tail and head and tail[0] != head[0]:
            handed_on.append((arrow, first[head[1]]))
            continue
        arrow.tail = first[tail[1]] if tail else arrow.tail
        arrow.head = first[head[1]] if head else arrow.head
        sheet.add(arrow)
    for arrow, name in handed_on:
        _merge_arrows(_entrance(sheet, name, set(first), arrow.style), arrow)
    for j, name in enumerate(first):
        for unit in units[1:]:
            _take_repetition(sheet.boxes[name], sheet.boxes.pop(unit[j]))
    for unit in units[1:]:
        for name in unit:
            sheet.into.pop(name, None), sheet.out.pop(name, None)


def _entrance(sheet: Sheet, name: str, unit: set[str], style: Style) -> Arrow:
    """The arrow through which the first repetition gets what the later ones get from the one before."""
    entering = [a for a in sheet.into[name].values() if a.tail not in unit]
    return min(entering, key=lambda a: (a.style != style, a.tail))


def _merge_arrows(into: Arrow, other: Arrow) -> None:
    into.skips += other.skips
    into.times += other.times
    into.held_at_peak |= other.held_at_peak


def _take_repetition(into: Box, other: Box) -> None:
    into.nodes += other.nodes
    into.times += other.times
    into.flops += other.flops
    into.parameters += other.parameters
    into.skips += other.skips
    into.held_at_peak |= other.held_at_peak


def _span(sheet: Sheet, parent: str, units: list[list[str]]) -> tuple[str, str]:
    """Paths of the first and the last child module of ``parent`` in a repetition."""
    depth = path_depth(parent) + 1
    paths = [parent_at(sheet.boxes[name].module, depth) for unit in units for name in unit]
    children = [path for path in paths if path_depth(path) == depth] or [parent]
    return children[0], children[-1]


def _between(first: str, last: str) -> str:
    """Both ends of a row of modules, what they have in common said once.

    Examples
    --------
    >>> _between("layer3.1", "layer3.5"), _between("encoder_layer_0", "encoder_layer_11"), _between("blocks", "blocks")
    ('layer3.1–5', 'encoder_layer_0–11', 'blocks')
    """
    if first == last:
        return first
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    while same and first[same - 1].isdigit():
        same -= 1
    return f"{first}–{last[same:]}" if last[same:].isdigit() else f"{first}–{last}"
