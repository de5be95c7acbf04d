"""From a graph of operators to boxes and arrows: chains are folded into the module that they belong to.

Three cuts keep what a diagram of skips is about: a merge with skips is a box of its own, a box ends where a skip
starts, and a shortcut is never in one box with the layers that it bypasses. Between the cuts, all operators that one
module runs in one go are one box.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import pairwise

import networkx as nx

from skipgraph.graph import Merge, SkipGraph
from skipgraph.report.drawing import Arrow, Box, Style
from skipgraph.report.links import Link, links

HEAVY = frozenset(
    "input layer recurrent attention attention_layer pool resample sample matmul embedding unknown sum concat "
    "difference".split()
)
LIGHT_AFTER_MERGE = frozenset("activation linear_map elementwise gate view".split())


def parent_at(path: str, depth: int) -> str:
    """The first ``depth`` components of a module path.

    Examples
    --------
    >>> parent_at("layer1.0.conv1", 2), parent_at("layer1", 2), parent_at("layer1", 0)
    ('layer1.0', 'layer1', '')
    """
    return ".".join(path.split(".")[:depth])


def path_depth(path: str) -> int:
    """How deep a module lies: 0 for the model itself."""
    return path.count(".") + 1 if path else 0


def drawn_merges(graph: SkipGraph, depth: int) -> dict[str, Merge]:
    """The merges that get a box of their own, by each of their nodes.

    Those are the merges with a long skip, and the merges with a skip that are made by a module no deeper than
    ``depth``; at depth -1 long skips alone count.
    """
    return {
        node: merge
        for merge in graph.merges
        if merge.skips and (merge.span == "long" or path_depth(graph.nodes[merge.node]["module"]) <= depth)
        for node in {merge.node, *merge.nodes}
    }


def fold(graph: SkipGraph, depth: int) -> tuple[dict[str, Box], list[Arrow]]:
    """Boxes (by id, in the order of execution) and arrows of ``graph`` with chains folded at module depth ``depth``."""
    drawn = drawn_merges(graph, depth)
    drawn_links = list(links(graph, drawn))
    part = _partition(graph, drawn, depth)
    part = _acyclic(graph, part)
    boxes = _boxes(graph, part, drawn, depth)
    part = _absorb(boxes, part, drawn_links)
    return boxes, _conditions(boxes, _arrows(graph, drawn_links, part, boxes))


class _Union:
    """Disjoint sets of names; the representative of a set is chosen by the caller."""

    def __init__(self) -> None:
        self.up: dict[str, str] = {}

    def find(self, name: str) -> str:
        root = name
        while (above := self.up.get(root, root)) != root:
            root = above
        while (above := self.up.get(name, name)) != root:
            self.up[name], name = root, above
        return root

    def join(self, into: str, other: str) -> None:
        into, other = self.find(into), self.find(other)
        if into != other:
            self.up[other] = into


def _partition(graph: SkipGraph, drawn: dict[str, Merge], depth: int) -> dict[str, str]:
    """Which box (named by its first node) each node is in.

    A stretch of consecutive operators with the same label cannot be left and entered again, so its connected parts
    can be contracted without making a cycle.
    """
    data = dict(graph.nodes(data=True))
    order = sorted(data, key=lambda node: int(data[node]["index"]))
    labels = {node: parent_at(data[node]["module"], depth) for node in order}
    sources = {skip.source for merge in drawn.values() for skip in merge.skips}
    sources |= {node for node in order if data[node]["kind"] == "input"}
    stretch = dict.fromkeys(order, 0)
    for previous, node in pairwise(order):
        same = labels[previous] == labels[node] and previous not in drawn and node not in drawn
        stretch[node] = stretch[previous] + (not same)
    union = _Union()
    for node in order:
        if node in drawn:
            union.join(drawn[node].node, node)
            continue
        for before in graph.predecessors(node):
            if stretch[before] == stretch[node] and before not in sources:
                union.join(before, node)
    return {node: union.find(node) for node in order}


def _acyclic(graph: SkipGraph, part: dict[str, str]) -> dict[str, str]:
    """Take apart the boxes that, contracted, would lie on a cycle (two forks of one module that feed each other)."""
    quotient = nx.DiGraph((part[u], part[v]) for u, v in graph.edges() if part[u] != part[v])
    if nx.is_directed_acyclic_graph(quotient):
        return part
    bad = set().union(*(c for c in nx.strongly_connected_components(quotient) if len(c) > 1))
    return {node: node if box in bad else box for node, box in part.items()}


def _boxes(graph: SkipGraph, part: dict[str, str], drawn: dict[str, Merge], depth: int) -> dict[str, Box]:
    """The boxes of a partition."""
    members: dict[str, list[str]] = defaultdict(list)
    for node, box in part.items():
        members[box].append(node)
    skips: dict[str, int] = defaultdict(int)
    for merge in graph.merges:
        skips[part[merge.node]] += min(1, len(merge.skips)) if merge.kind == "concat" else len(merge.skips)
    boxes = {}
    attributes = dict(graph.nodes(data=True))
    for name, nodes in members.items():
        data = [attributes[node] for node in nodes]
        merge_of_box = drawn.get(nodes[0])
        kinds = frozenset(d["kind"] for d in data)
        boxes[name] = Box(
            id=name,
            nodes=nodes,
            pattern=tuple(d["op"] for d in data),
            module=parent_at(data[-1]["module"], depth),
            merge=merge_of_box,
            shape=tuple(data[-1]["shape"]),
            positions=data[-1]["positions"],
            order=data[0]["index"],
            flops=sum(d["flops"] for d in data),
            parameters=sum(d["parameters"] for d in data),
            skips=skips[name],
            held_at_peak=any(d["held_at_peak"] for d in data),
            cheap=merge_of_box is None and not kinds & HEAVY,
            kinds=kinds,
        )
    return boxes


def _absorb(boxes: dict[str, Box], part: dict[str, str], drawn_links: list[Link]) -> dict[str, str]:
    """Draw normalisations, activations, views and the like together with the box that they belong to.

    A box whose only successor is S can be contracted into S, and one whose only predecessor is P into P, without
    making a cycle.
    """
    before: dict[str, set[str]] = {name: set() for name in boxes}
    after: dict[str, set[str]] = {name: set() for name in boxes}
    for link in drawn_links:
        tail, head = part[link.tail], part[link.head]
        if tail != head:
            before[head].add(tail)
            after[tail].add(head)
    union = _Union()
    for name in sorted(boxes, key=lambda b: boxes[b].order):
        box = boxes[name]
        target = _absorbed_by(box, boxes, before, after) if box.cheap else None
        if target is None:
            continue
        union.join(target.id, name)
        _take(target, box)
        for side, other in ((before, after), (after, before)):
            for neighbour in side.pop(name):
                other[neighbour].discard(name)
                if neighbour != target.id:
                    other[neighbour].add(target.id)
                    side[target.id].add(neighbour)
        del boxes[name]
    return {node: union.find(box) for node, box in part.items()}


def _absorbed_by(
    box: Box, boxes: dict[str, Box], before: dict[str, set[str]], after: dict[str, set[str]]
) -> Box | None:
    """The neighbour that a cheap box is drawn together with, if any."""
    previous = [boxes[b] for b in before[box.id]]
    following = [boxes[b] for b in after[box.id]]
    if len(previous) == 1 and len(after[previous[0].id]) == 1 and "input" not in previous[0].kinds:
        closing = len(following) != 1 and previous[0].module and box.module.startswith(previous[0].module)
        if previous[0].merge is None or closing or box.kinds <= LIGHT_AFTER_MERGE:
            return previous[0]
    if len(following) == 1 and _may_lead(box, following[0], len(previous)):
        return following[0]
    if not previous and not following:  # constants: the box that runs next, or the last one
        later = [b for b in boxes.values() if b.order > box.order and "input" not in b.kinds]
        return min(later, key=lambda b: b.order) if later else None
    return None


def _may_lead(box: Box, following: Box, previous: int) -> bool:
    """Whether a cheap box may be drawn together with the box that reads it: a merge takes in its crops and scales."""
    merge = following.merge
    return merge is None or merge.kind == "gated" or (previous == 1 and "norm" not in box.kinds)


def _take(target: Box, box: Box) -> None:
    """Add a neighbour's operators to ``target``."""
    first, second = (target, box) if target.order < box.order else (box, target)
    target.shape, target.positions = second.shape, second.positions
    target.nodes, target.pattern = first.nodes + second.nodes, first.pattern + second.pattern
    target.order = first.order
    target.flops += box.flops
    target.parameters += box.parameters
    target.skips += box.skips
    target.held_at_peak |= box.held_at_peak
    target.kinds |= box.kinds
    if target.cheap and first is box:
        target.module = box.module


def _arrows(graph: SkipGraph, drawn_links: list[Link], part: dict[str, str], boxes: dict[str, Box]) -> list[Arrow]:
    """Links between boxes, those of one style between the same two boxes taken together."""
    arrows: dict[tuple[str, str, Style], Arrow] = {}
    tensors: dict[tuple[str, str, Style], set[str]] = defaultdict(set)
    hidden: list[Link] = []
    for link in drawn_links:
        key = (part[link.tail], part[link.head], link.style)
        if key[0] == key[1]:
            hidden.append(link)
            continue
        arrow = arrows.setdefault(key, Arrow(*key))
        arrow.bytes += link.bytes if link.tail not in tensors[key] else 0
        tensors[key].add(link.tail)
        arrow.skips += link.skips
        arrow.held_at_peak |= link.held_at_peak
    _hand_over(graph, [link for link in hidden if link.skips], part, arrows, boxes)
    return sorted(arrows.values(), key=lambda a: (boxes[a.tail].order, boxes[a.head].order, str(a.style)))


def _hand_over(
    graph: SkipGraph,
    hidden: list[Link],
    part: dict[str, str],
    arrows: dict[tuple[str, str, Style], Arrow],
    boxes: dict[str, Box],
) -> None:
    """Where the end of a stem is drawn together with its merge, its skip belongs to the arrow that enters the box."""
    skips = {skip.id: skip for skip in graph.skips} if hidden else {}
    for link in hidden:
        head = part[link.head]
        for name in link.skips:
            stem = {part[node] for node in (skips[name].source, *skips[name].stem)}
            entering = [key for tail in stem if (key := (tail, head, link.style)) in arrows]
            if entering:
                arrows[max(entering, key=lambda key: boxes[key[0]].order)].skips.append(name)


def _conditions(boxes: dict[str, Box], arrows: list[Arrow]) -> list[Arrow]:
    """Restyle what conditions many boxes (a time embedding that every block reads): it is no part of the main flow."""

    def conditions(arrow: Arrow) -> bool:
        return arrow.style.role == "data" and boxes[arrow.tail].positions == 1 and boxes[arrow.head].positions > 1

    readers = Counter(arrow.tail for arrow in arrows if conditions(arrow))
    for arrow in arrows:
        if conditions(arrow) and readers[arrow.tail] > 1:
            arrow.style = Style("side")
    return arrows
