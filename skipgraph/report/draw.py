"""From a graph to a drawing: the depth is chosen, chains and repetitions are folded, frames are put round modules."""

from __future__ import annotations

import networkx as nx

from skipgraph.graph import SkipGraph
from skipgraph.report.drawing import Drawing, Frame
from skipgraph.report.fold import fold, path_depth
from skipgraph.report.repeat import fold_repetitions

MOST_BOXES = 60  # a diagram that is still read
COMFORTABLE_BOXES = 30  # a diagram that fits a page
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
    modules: dict[str, str] = graph.graph.get("modules", {})
    if depth is None:
        depth = _choose(graph, modules)
    boxes, arrows, members = fold_repetitions(*fold(graph, depth), modules, unfold=unfold)
    joined = nx.Graph((arrow.tail, arrow.head) for arrow in arrows)
    joined.add_nodes_from(boxes)
    return Drawing(boxes, arrows, _tidy(members, joined), depth, modules)


def _choose(graph: SkipGraph, modules: dict[str, str]) -> int:
    deepest = max((path_depth(data["module"]) for _, data in graph.nodes(data=True)), default=0)
    skips = sum(len(merge.skips) for merge in graph.merges)
    sizes: dict[int, tuple[int, bool]] = {}
    for depth in range(-1, deepest + 1):
        boxes, arrows, _ = fold_repetitions(*fold(graph, depth), modules)
        complete = sum(len(arrow.skips) for arrow in arrows) == skips
        sizes[depth] = (len(boxes), complete)
    complete = {d: size for d, (size, whole) in sizes.items() if whole and size <= MOST_BOXES}
    if comfortable := [d for d, size in complete.items() if size <= COMFORTABLE_BOXES]:
        return max(comfortable)
    if complete:
        return min(complete, key=lambda d: (d < 1, complete[d], -d))
    fitting = [d for d, (size, _) in sizes.items() if size <= MOST_BOXES]
    return max(fitting) if fitting else min(sizes, key=lambda d: (sizes[d][0], -d))


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
