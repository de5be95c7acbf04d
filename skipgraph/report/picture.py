"""The diagram as SVG, PNG or PDF: Graphviz lays it out in a child process that is stopped when it takes too long."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from skipgraph.errors import SkipgraphError
from skipgraph.report import layout
from skipgraph.report.draw import MOST_BOXES, draw
from skipgraph.report.dot import Look, source
from skipgraph.report.registry import Options, register

if TYPE_CHECKING:
    from skipgraph.inspection import Inspection

TIME_LIMIT_SECONDS = 20.0  # for each try


class _TooSlowError(Exception):
    """The layout was stopped."""


class _NoGraphvizError(Exception):
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
    """The first drawing, from elaborate to plain, that is laid out in time; DOT source if none can be."""
    tries = _sources(inspection, options)
    said, best = next(tries)
    dot = best
    while True:
        try:
            picture = lay_out(dot, form, TIME_LIMIT_SECONDS)
        except _NoGraphvizError:
            options.warn(
                f"there is no Graphviz to draw with, so this is DOT source, not {form.upper()}: install it by "
                f"`pip install pygraphviz`, or draw the file elsewhere by `dot -T{form} FILE.dot -o FILE.{form}`"
            )
            return best
        except _TooSlowError:
            simpler = next(tries, None)
            if simpler is None:
                options.warn(
                    f"Graphviz needs more than {TIME_LIMIT_SECONDS:g} s even for the plainest drawing, so this is DOT "
                    f"source, not {form.upper()}: try a smaller --depth, or `dot -T{form} FILE.dot -o FILE.{form}`"
                )
                return best
            said, dot = simpler
            continue
        if said:
            options.warn(said)
        return picture


def _sources(inspection: Inspection, options: Options) -> Iterator[tuple[str, str]]:
    """Drawings from elaborate to plain, each with what to say to the user if it is the one that comes out."""
    slow = f"the layout took more than {TIME_LIMIT_SECONDS:g} s, so the diagram is drawn "
    drawing = draw(inspection.graph, depth=options.depth, unfold=options.unfold)
    yield "", source(inspection, drawing)
    yield slow + "without frames round its modules", source(inspection, drawing, Look(frames=False))
    plain = draw(inspection.graph)
    if len(plain.boxes) > MOST_BOXES // 2:
        plain = draw(inspection.graph, depth=1)
    yield slow + "with fewer boxes and without frames: --depth gives another view", source(
        inspection, plain, Look(frames=False)
    )


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
    SkipgraphError
        If Graphviz fails on it.
    """
    commands = list(_commands(form))
    if not commands:
        raise _NoGraphvizError
    failures = []
    for command in commands:
        try:
            done = subprocess.run(command, input=dot.encode(), capture_output=True, timeout=seconds, check=False)
        except subprocess.TimeoutExpired:
            raise _TooSlowError from None
        if done.returncode == 0 and done.stdout:
            return done.stdout
        failures.append(done.stderr.decode(errors="replace").strip().splitlines()[-1:] or [f"status {done.returncode}"])
    reason = "; ".join(lines[0] for lines in failures)
    raise SkipgraphError(f"Graphviz could not draw the diagram: {reason}", "Use --format dot, and another Graphviz.")


def _commands(form: str) -> Iterator[list[str]]:
    """How Graphviz can be run here."""
    if importlib.util.find_spec("pygraphviz") is not None:
        # -P: the directory of that file holds modules that are called like some of the standard library.
        yield [sys.executable, "-P", str(Path(layout.__file__)), form]
    if (program := shutil.which("dot")) is not None:
        yield [program, f"-T{form}", *(["-Gdpi=144"] if form == "png" else [])]
