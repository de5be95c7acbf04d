"""From a graph to a drawing: the depth is chosen, chains and repetitions are folded, frames are put round modules."""

from __future__ import annotations

import networkx as nx

from skipgraph.graph import SkipGraph
from skipgraph.report.drawing import Drawing, Frame
from skipgraph.report.fold import fold, path_depth
from skipgraph.report.repeat import fold_repetitions

MOST_BOXES = 60  # a diagram that is still read
COMFORTABLE_BOXES = 26  # a diagram that fits a page
MOST_IN_A_FRAME = 0.65  # share of all boxes that one frame may hold and still say something


def draw(graph: SkipGraph, *, depth: int | None = None, unfold: bool = False) -> Drawing:
    """The drawing of ``graph``.

    Parameters
    ----------
    graph : SkipGraph
    depth : int, optional
        Module depth at which chains are folded. By default the deepest at which a drawing that shows every skip fits
        a page; failing that, the smallest that shows every skip; failing that, the deepest with at most `MOST_BOXES`
        boxes; failing that, the one with the fewest.
    unfold : bool
        Write every repetition out.
    """
    if depth is None:
        return _best(graph, unfold)
    return _drawing(graph, depth, unfold)


def _drawing(graph: SkipGraph, depth: int, unfold: bool = False) -> Drawing:
    modules: dict[str, str] = graph.graph.get("modules", {})
    boxes, arrows, members = fold_repetitions(*fold(graph, depth), modules, unfold=unfold)
    joined = nx.Graph((arrow.tail, arrow.head) for arrow in arrows)
    joined.add_nodes_from(boxes)
    return Drawing(boxes, arrows, _tidy(members, joined), depth, modules)


def _best(graph: SkipGraph, unfold: bool) -> Drawing:
    """The drawing at the depth that is chosen when none is asked for; its repetitions are folded while choosing."""
    deepest = max((path_depth(data["module"]) for _, data in graph.nodes(data=True)), default=0)
    skips = sum(len(merge.skips) for merge in graph.merges)
    seen: list[tuple[bool, Drawing]] = []  # with whether it shows every skip
    for depth in range(deepest, -2, -1):
        if depth < 1 and any(whole and len(d.boxes) <= MOST_BOXES for whole, d in seen):  # nothing has a name there
            break
        drawing = _drawing(graph, depth)
        seen.append((sum(len(arrow.skips) for arrow in drawing.arrows) == skips, drawing))
        if seen[-1][0] and len(drawing.boxes) <= COMFORTABLE_BOXES:
            break
    best = min(seen, key=_merit)[1]
    return best if not unfold else _drawing(graph, best.depth, unfold)


def _merit(seen: tuple[bool, Drawing]) -> tuple[int, ...]:
    """What the best drawing has least of: see `draw`."""
    whole, drawing = seen
    size = len(drawing.boxes)
    if size > MOST_BOXES:
        return 3, size
    if not whole:
        return 2, -drawing.depth
    return (0, -drawing.depth) if size <= COMFORTABLE_BOXES else (1, size)


def _tidy(members: list[Frame | str], joined: nx.Graph) -> list[Frame | str]:
    """Leave out frames that say nothing.

    Those are frames around one box, around most of the drawing, around boxes that nothing inside connects, and
    directly around another frame.
    """
    tidied: list[Frame | str] = []
    for member in members:
        if isinstance(member, str):
            tidied.append(member)
            continue
        member.members = _tidy(member.members, joined)
        inside = member.boxes()
        inner = member.members[0]
        one = len(member.members) == 1 or len(inside) > MOST_IN_A_FRAME * len(joined)
        if member.times == 1 and (one or not nx.is_connected(joined.subgraph(inside))):
            tidied += member.members
        elif len(member.members) == 1 and isinstance(inner, Frame) and inner.times == 1:
            tidied.append(Frame(member.title, member.module, member.times, inner.members))
        else:
            tidied.append(member)
    return tidied
