"""The diagram in DOT, the language of Graphviz."""

from __future__ import annotations

import html
import math
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import graphviz

from skipgraph.report import labels, units
from skipgraph.report.arrange import Arrangement, arrange
from skipgraph.report.draw import draw
from skipgraph.report.drawing import Arrow, Box, Drawing, Frame, Style
from skipgraph.report.registry import Options, register

if TYPE_CHECKING:
    from skipgraph.inspection import Inspection

# Okabe and Ito's palette, which people with any colour vision tell apart.
KIND_COLOURS = {"add": "#0072B2", "concat": "#E69F00", "gated": "#009E73"}
KIND_FILLS = {"add": "#DCEBF5", "concat": "#FCEFD2", "gated": "#D5EEE6"}
MERGE_NAMES = {"add": "add", "concat": "concat", "gated": "gated add"}
LONG_COLOUR = "#CC79A7"
PEAK_COLOUR = "#F0E442"
INK, LINE, FAINT = "#22262B", "#6B737D", "#B9C0C8"
FONT = "Helvetica,Arial,DejaVu Sans,sans-serif"
TITLE_SIZE, NAME_SIZE, TEXT_SIZE = 15, 10, 8.5


@dataclass(frozen=True, slots=True)
class Look:
    """How elaborate the drawing is; each step of the fall-back is a plainer one.

    Attributes
    ----------
    frames : bool
        Draw frames round repeated blocks.
    module_frames : bool
        Draw frames round all other modules.
    arranged : bool
        Draw an encoder-decoder as a U and a long chain as a snake.
    """

    frames: bool = True
    module_frames: bool = True
    arranged: bool = True


@register("dot")
def dot(inspection: Inspection, options: Options) -> str:
    """The diagram as DOT source."""
    return source(inspection, draw(inspection.graph, depth=options.depth, unfold=options.unfold))


def source(inspection: Inspection, drawing: Drawing, look: Look = Look()) -> str:
    """The DOT source of a drawing."""
    return _Writer(inspection, drawing, look).write()


class _Writer:
    def __init__(self, inspection: Inspection, drawing: Drawing, look: Look) -> None:
        self.inspection, self.graph, self.drawing, self.look = inspection, inspection.graph, drawing, look
        self.arrangement = arrange(drawing) if look.arranged else Arrangement()
        self.ids = {name: f"n{i}" for i, name in enumerate(drawing.boxes)}
        ends = Counter(a.head for a in drawing.arrows if a.style.long and a.skips)
        self.listed = {name for name, number in ends.items() if number > 1}
        self.home = _homes(drawing)
        self.widest = max((a.bytes for a in drawing.arrows), default=0) or 1

    def write(self) -> str:
        dot = graphviz.Digraph("skipgraph")
        dot.attr("graph", **self._graph_attributes())
        dot.attr("node", fontname=FONT, fontsize=str(TEXT_SIZE), fontcolor=INK, penwidth="0.9", margin="0.11,0.06")
        dot.attr("edge", fontname=FONT, fontsize=str(TEXT_SIZE), fontcolor=INK, color=LINE, arrowsize="0.6")
        self._members(dot, self.drawing.members, None)
        for level in self.arrangement.levels:
            with dot.subgraph() as rank:
                rank.attr(rank="same")
                for name in level:
                    rank.node(self.ids[name])
                for left, right in pairwise(level):
                    rank.edge(self.ids[left], self.ids[right], style="invis")
        return str(dot.source)

    def _graph_attributes(self) -> dict[str, str]:
        return {
            "label": self._heading(),
            "labelloc": "t",
            "labeljust": "l",
            "fontname": FONT,
            "fontcolor": INK,
            "bgcolor": "white",
            "pad": "0.25",
            "nodesep": "0.5" if self.arrangement.arms else "0.28",
            "ranksep": "0.3",
            "newrank": "true",
            "nslimit": "1",
            "nslimit1": "1",
            "mclimit": "0.1",
            "tooltip": graphviz.escape(self.inspection.spec),
        }

    def _members(self, dot: graphviz.Digraph, members: list[Frame | str], frame: Frame | None) -> None:
        """Boxes, frames and arrows that lie in ``frame``: an arrow is drawn in the innermost frame of both its ends."""
        for member in members:
            if isinstance(member, str):
                self._box(dot, self.drawing.boxes[member], frame.module if frame else "")
            elif self._is_drawn(member):
                with dot.subgraph(name=f"cluster_{self.ids[member.boxes()[0]]}_{len(member.boxes())}") as cluster:
                    cluster.attr(**self._frame_attributes(member))
                    self._members(cluster, member.members, member)
            else:
                self._members(dot, member.members, member)
        for arrow in self.drawing.arrows:
            if self.home[id(arrow)] is frame:
                self._arrow(dot, arrow)

    def _is_drawn(self, frame: Frame) -> bool:
        return self.look.frames if frame.times > 1 else self.look.module_frames

    def _frame_attributes(self, frame: Frame) -> dict[str, str]:
        name = _escape(labels.relative(frame.title, frame.title.rpartition(".")[0]))
        text = f'<font point-size="{TEXT_SIZE}" color="{LINE}">{name}</font>'
        if frame.times > 1:
            text = f'<font point-size="{NAME_SIZE}"><b>× {frame.times}</b></font>  ' + text
        return {
            "label": f"<{text}>",
            "labeljust": "l",
            "style": "rounded,filled" + (",dashed" if frame.times > 1 else ""),
            "fillcolor": "#F6F7F9" if frame.times == 1 else "#EEF1F5",
            "color": "#DDE1E6" if frame.times == 1 else "#8A929C",
            "penwidth": "0.9",
            "margin": "9",
            "tooltip": frame.title + (f", repeated {frame.times} times" if frame.times > 1 else ""),
        }

    def _box(self, dot: graphviz.Digraph, box: Box, frame: str) -> None:
        attributes = {"shape": "box", "style": "rounded,filled", "fillcolor": "white", "color": LINE}
        if box.merge:
            colour = LONG_COLOUR if box.merge.span == "long" else KIND_COLOURS[box.merge.kind]
            attributes |= {"fillcolor": KIND_FILLS[box.merge.kind], "color": colour, "penwidth": "1.4"}
        elif "input" in box.kinds:
            attributes |= {"fillcolor": "#E9ECF0", "color": "#E9ECF0"}
        tooltip = graphviz.escape(labels.box_tooltip(self.graph, box))
        dot.node(self.ids[box.id], label=self._box_label(box, frame), tooltip=tooltip, **attributes)

    def _box_label(self, box: Box, frame: str) -> str:
        """The lines of a box: name, operators, shape, costs, and whether it is held at the peak."""
        graph = self.graph
        summary = labels.summary(graph, box)
        if box.merge:
            name, summary = labels.merge_title(graph, box, MERGE_NAMES[box.merge.kind]), ""
        else:
            name = labels.title(graph, box, self.drawing.modules, frame)
        rows = [_text(f"<b>{_escape(name)}</b>", NAME_SIZE)]
        rest = [summary if summary != name else "", units.shape(box.shape), labels.costs(graph, box)]
        if box.skips and not box.merge:
            rest.append(units.plural(box.skips, "skip") + " inside")
        if box.id in self.listed and box.merge:
            rest += [f"long: {skip.id}" for skip in box.merge.skips if skip.span == "long"]
        rows += [_text(_escape(line), TEXT_SIZE, "#4A515A") for line in rest if line]
        cells = "".join(f"<tr><td>{row}</td></tr>" for row in rows)
        if box.held_at_peak:
            cells += f"<tr><td>{_BADGE}</td></tr>"
        return f'<<table border="0" cellborder="0" cellspacing="0" cellpadding="0.5">{cells}</table>>'

    def _arrow(self, dot: graphviz.Digraph, arrow: Arrow) -> None:
        style = arrow.style
        tooltip = graphviz.escape(labels.arrow_tooltip(arrow))
        attributes = {"tooltip": tooltip, "penwidth": f"{self._width(arrow):.2f}", "color": _colour(style)}
        if lines := labels.arrow_label(arrow, arrow.head not in self.listed):
            attributes |= {"label": graphviz.escape("\n".join(f" {line} " for line in lines)), "labeltooltip": tooltip}
        if style.role == "gate":
            attributes["style"] = "dotted"
        if style.role == "side":
            attributes |= {"penwidth": "0.7", "arrowsize": "0.45"}
        ends = ["normal", "dot" if arrow.held_at_peak and style.role == "skip" else "none"]
        tail, head = self.ids[arrow.tail], self.ids[arrow.head]
        direction = self.arrangement.direction(arrow)
        if direction == "up":  # ranks grow downward, so the layout is handed the arrow the other way round
            tail, head, ends = head, tail, ends[::-1]
        elif direction == "none":
            attributes["constraint"] = "false"
        dot.edge(tail, head, dir="both", arrowhead=ends[0], arrowtail=ends[1], **attributes)

    def _width(self, arrow: Arrow) -> float:
        share = math.sqrt(arrow.bytes / self.widest)
        return 2.2 + 2.3 * share if arrow.style.long else 0.7 + 1.6 * share

    def _heading(self) -> str:
        """Title, totals and legend, above the drawing."""
        text = labels.totals(self.graph, self.drawing)
        rows = [
            _text(f"<b>{_escape(self.inspection.spec)}</b>", TITLE_SIZE),
            _text(_escape(text), NAME_SIZE),
            self._legend(),
        ]
        cells = "".join(f'<tr><td align="left">{row}</td></tr>' for row in rows)
        return f'<<table border="0" cellborder="0" cellspacing="0" cellpadding="3">{cells}</table>>'

    def _legend(self) -> str:
        """What the colours that occur stand for."""
        styles = {arrow.style for arrow in self.drawing.arrows}
        entries = [
            (KIND_COLOURS[kind], f"short skip into {MERGE_NAMES[kind]}", 2)
            for kind in KIND_COLOURS
            if Style("skip", kind) in styles
        ]
        if any(style.long for style in styles):
            entries.append((LONG_COLOUR, "long skip, with its id", 5))
        if any(style.role == "gate" for style in styles):
            entries.append((FAINT, "gate", 2))
        if any(style.role == "side" for style in styles):
            entries.append((FAINT, "condition", 1))
        entries.append((LINE, "data; line width grows with bytes", 2))
        cells = "".join(
            f'<td><table border="0" cellborder="0" cellspacing="0" cellpadding="0"><tr><td fixedsize="true" width="22" '
            f'height="{height}" bgcolor="{colour}"></td></tr></table></td><td>{_text(text + "   ", TEXT_SIZE)}</td>'
            for colour, text, height in entries
        )
        if any(box.held_at_peak for box in self.drawing.boxes.values()):
            cells += f"<td>{_BADGE}</td><td>{_text('live when memory peaks   ', TEXT_SIZE)}</td>"
        cells += f"<td>{_text('1 FLOP = 1 multiply-add', TEXT_SIZE)}</td>"
        return f'<table border="0" cellborder="0" cellspacing="0" cellpadding="2"><tr>{cells}</tr></table>'


def _homes(drawing: Drawing) -> dict[int, Frame | None]:
    """The innermost frame that holds both ends of each arrow."""
    around: dict[str, list[Frame]] = {name: [] for name in drawing.boxes}

    def note(members: list[Frame | str]) -> None:
        for member in members:
            if isinstance(member, Frame):
                for name in member.boxes():
                    around[name].append(member)
                note(member.members)

    note(drawing.members)
    homes: dict[int, Frame | None] = {}
    for arrow in drawing.arrows:
        common = [frame for frame in around[arrow.tail] if any(frame is other for other in around[arrow.head])]
        homes[id(arrow)] = common[-1] if common else None
    return homes


def _text(text: str, points: float, colour: str = INK) -> str:
    return f'<font point-size="{points}" color="{colour}">{text}</font>'


_BADGE = (
    '<table border="0" cellborder="0" cellspacing="0" cellpadding="0"><tr><td fixedsize="true" width="32" height="11" '
    f'bgcolor="{PEAK_COLOUR}"><font point-size="7">peak</font></td></tr></table>'
)


def _colour(style: Style) -> str:
    if style.role == "skip":
        return LONG_COLOUR if style.long else KIND_COLOURS[style.kind]
    return LINE if style.role == "data" else FAINT


def _escape(text: str) -> str:
    return html.escape(text, quote=False)
