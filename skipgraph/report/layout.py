"""DOT to a picture, in a process of its own: ``python layout.py svg < drawing.dot > drawing.svg``.

Graphviz can take minutes over a drawing and cannot be interrupted from within, and it writes to standard error what
no user can use, so `skipgraph.report.picture` runs this file in a child process. It imports nothing of skipgraph.
A drawing in which Graphviz lost an arrow is an error.

Titles of frames are laid out at the left. Where an arrow would run through one, it is moved to the side that fewer
arrows cross; sizes do not change by that, so the second layout is the first.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

Point = tuple[float, float]
MARGIN = 10.0  # points between the side of a frame and its title
STEPS = 8  # straight pieces that stand for one Bézier curve


def main() -> None:
    """Draw standard input to standard output."""
    import pygraphviz

    form, source = sys.argv[1], sys.stdin.buffer.read().decode()
    graph = pygraphviz.AGraph(string=source)
    graph.layout(prog="dot")
    if any(not edge.attr["pos"] for edge in graph.edges() if edge.attr["style"] != "invis"):
        sys.exit("Graphviz could not route an arrow")
    sides = dict(_better_sides(graph))
    graph = pygraphviz.AGraph(string=source)
    for frame in _frames(graph):
        frame.graph_attr["labeljust"] = sides.get(frame.name, "l")
    if form == "png":
        graph.graph_attr["dpi"] = "144"
    sys.stdout.buffer.write(graph.draw(format=form, prog="dot"))


def _frames(graph: Any) -> Iterator[Any]:
    for frame in graph.subgraphs():
        if frame.name and frame.name.startswith("cluster"):
            yield frame
            yield from _frames(frame)


def _better_sides(graph: Any) -> Iterator[tuple[str, str]]:
    curves = [list(_points(edge.attr["pos"])) for edge in graph.edges()]
    for frame in _frames(graph):
        attributes = frame.graph_attr
        if not attributes["lp"] or not attributes["bb"]:
            continue
        left, _, right, _ = (float(x) for x in attributes["bb"].split(","))
        y = float(attributes["lp"].split(",")[1])
        width, height = 72 * float(attributes["lwidth"]), 72 * float(attributes["lheight"])
        starts = {"l": left + MARGIN, "r": right - MARGIN - width, "c": (left + right - width) / 2}
        crossed = {
            side: sum(_crosses(curve, (x, y - height / 2), (x + width, y + height / 2)) for curve in curves)
            for side, x in starts.items()
        }
        yield frame.name, min(starts, key=lambda side: crossed[side])


def _points(position: str) -> Iterator[Point]:
    """Points along a spline as Graphviz writes it, "e,x,y s,x,y x,y x,y …"."""
    pairs = [tuple(float(v) for v in p.split(",")) for p in re.sub(r"[es],[^ ]+ ?", "", position).split()]
    for i in range(0, len(pairs) - 3, 3):
        p0, p1, p2, p3 = pairs[i : i + 4]
        for step in range(STEPS):
            t = step / STEPS
            a, b, c, d = (1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3
            yield (a * p0[0] + b * p1[0] + c * p2[0] + d * p3[0], a * p0[1] + b * p1[1] + c * p2[1] + d * p3[1])
    if pairs:
        yield pairs[-1][0], pairs[-1][1]


def _crosses(curve: list[Point], low: Point, high: Point) -> bool:
    """Whether a polyline passes through a rectangle, sampled finely enough for a line of text."""
    for (x0, y0), (x1, y1) in pairwise(curve):
        pieces = max(1, int(max(abs(x1 - x0), abs(y1 - y0)) // 3))
        for k in range(pieces + 1):
            x, y = x0 + (x1 - x0) * k / pieces, y0 + (y1 - y0) * k / pieces
            if low[0] <= x <= high[0] and low[1] <= y <= high[1]:
                return True
    return False


if __name__ == "__main__":
    main()
