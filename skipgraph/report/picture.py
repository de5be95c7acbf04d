"""The diagram as SVG, PNG or PDF: Graphviz lays it out in a child process that is stopped when it takes too long."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from skipgraph.report import layout
from skipgraph.report.dot import Look, source
from skipgraph.report.draw import draw
from skipgraph.report.registry import Options, register

if TYPE_CHECKING:
    from skipgraph.inspection import Inspection

TIME_LIMIT_SECONDS = 20.0  # for each try


LOOKS = (
    ("", Look()),
    ("", Look(module_frames=False)),
    ("without frames round its modules", Look(module_frames=False, frames=False)),
    ("plainly, top down and without frames", Look(module_frames=False, frames=False, arranged=False)),
)


class LayoutError(Exception):
    """Graphviz gave up, lost something or was stopped: says so in words for the user."""


class NoGraphvizError(Exception):
    """There is neither pygraphviz nor a ``dot`` program."""


@register("svg")
def svg(inspection: Inspection, options: Options) -> str:
    """The diagram as SVG; shapes, FLOPs, parameters and ids are in its tooltips too."""
    picture = _picture(inspection, options, "svg")
    return picture if isinstance(picture, str) else picture.decode()


@register("png")
def png(inspection: Inspection, options: Options) -> bytes | str:
    """The diagram as PNG, 144 dots an inch."""
    return _picture(inspection, options, "png")


@register("pdf")
def pdf(inspection: Inspection, options: Options) -> bytes | str:
    """The diagram as PDF."""
    return _picture(inspection, options, "pdf")


def _picture(inspection: Inspection, options: Options, form: str) -> bytes | str:
    """The first drawing, from elaborate to plain, that Graphviz can lay out in time; DOT source if there is none."""
    best, failure = "", ""
    for changes, dot in _sources(inspection, options):
        best = best or dot
        try:
            picture = lay_out(dot, form, TIME_LIMIT_SECONDS)
        except NoGraphvizError:
            options.warn(
                f"there is no Graphviz to draw with, so this is DOT source, not {form.upper()}: install it by "
                f"`pip install 'skipgraph[svg]'`, or draw the file elsewhere by `dot -T{form} FILE.dot -o FILE.{form}`"
            )
            return best
        except LayoutError as error:
            failure = failure or str(error)
            continue
        if failure and changes:
            options.warn(f"{failure}, so the diagram is drawn {changes}")
        return picture
    options.warn(
        f"{failure}, even in the plainest drawing, so this is DOT source, not {form.upper()}: try another --depth, or "
        f"draw the file by `dot -T{form} FILE.dot -o FILE.{form}`"
    )
    return best


def _sources(inspection: Inspection, options: Options) -> Iterator[tuple[str, str]]:
    """Drawings from elaborate to plain, each with what is to be said if it is the one that comes out."""
    drawing = draw(inspection.graph, depth=options.depth, unfold=options.unfold)
    for changes, look in LOOKS:
        yield changes, source(inspection, drawing, look)
    plain = draw(inspection.graph)
    if len(plain.boxes) >= len(drawing.boxes):
        plain = draw(inspection.graph, depth=1)
    yield "plainly and with fewer boxes", source(inspection, plain, LOOKS[-1][1])


def lay_out(dot: str, form: str, seconds: float) -> bytes:
    """Draw DOT source.

    Parameters
    ----------
    dot : str
        DOT source.
    form : str
        ``"svg"``, ``"png"`` or ``"pdf"``.
    seconds : float
        When to give up.

    Returns
    -------
    bytes
        The picture.

    Raises
    ------
    LayoutError
        If it takes longer, or fails.
    NoGraphvizError
        If there is no Graphviz.
    """
    commands = list(_commands(form))
    if not commands:
        raise NoGraphvizError
    reason = ""
    for command in commands:
        try:
            done = subprocess.run(command, input=dot.encode(), capture_output=True, timeout=seconds, check=False)
        except subprocess.TimeoutExpired:
            raise LayoutError(f"the layout takes more than {seconds:g} s") from None
        if done.returncode == 0 and done.stdout:
            return done.stdout
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        reason = reason or (lines[-1] if lines else f"Graphviz ended with status {done.returncode}")
    raise LayoutError(reason)


def _commands(form: str) -> Iterator[list[str]]:
    """How Graphviz can be run here."""
    if importlib.util.find_spec("pygraphviz") is not None:
        # -P: the directory of that file holds modules that are called like some of the standard library.
        yield [sys.executable, "-P", str(Path(layout.__file__)), form]
    if (program := shutil.which("dot")) is not None:
        yield [program, f"-T{form}", *(["-Gdpi=144"] if form == "png" else [])]
