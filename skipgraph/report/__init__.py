"""What is told of a model, one file a format.

A module of this package that registers a function (`skipgraph.report.registry.register`) is a format, and nothing else
has to be changed for it; other packages add theirs by entry points of the group ``skipgraph.report``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from skipgraph.errors import UsageError
from skipgraph.report.registry import Options, load_formats

if TYPE_CHECKING:
    from skipgraph.inspection import Inspection

__all__ = ["formats", "is_dot", "render"]


def formats() -> tuple[str, ...]:
    """Names of all formats, sorted.

    Examples
    --------
    >>> formats()
    ('dot', 'json', 'pdf', 'png', 'svg', 'table')
    """
    return tuple(sorted(load_formats()))


def render(
    inspection: Inspection,
    format: str = "table",
    *,
    depth: int | None = None,
    unfold: bool = False,
    what_if: bool = False,
    color: bool = False,
    width: int | None = None,
    warn: Callable[[str], None] | None = None,
) -> str | bytes:
    """An inspection as a table, as JSON, or as a diagram.

    Parameters
    ----------
    inspection : Inspection
        What `skipgraph.inspect` returned.
    format : str
        One of `formats`.
    depth : int, optional
        In a diagram, the module depth at which chains of operators are folded. By default what fits a page and shows
        every skip, and in no case more than about 60 boxes if that can be had.
    unfold : bool
        Show repeated blocks, or rows of a table, one by one.
    what_if : bool
        In a table, say for every skip what each possible rewrite would change.
    color : bool
        In a table, use ANSI colours.
    width : int, optional
        Characters in a line of a table, 100 by default.
    warn : callable, optional
        Is called with a message for the user whenever the result is less than what was asked for: a diagram that had
        to be simplified, or one that is DOT because there is no Graphviz. By default a `RuntimeWarning`.

    Returns
    -------
    str or bytes
        Bytes for ``png`` and ``pdf``, text otherwise. Without Graphviz a diagram is its DOT source: see `is_dot`.

    Raises
    ------
    UsageError
        If there is no such format.

    Examples
    --------
    >>> import skipgraph, torch
    >>> inspection = skipgraph.inspect(torch.nn.Linear(3, 4), torch.empty(1, 3))
    >>> print(render(inspection, "dot").splitlines()[0])
    digraph skipgraph {
    """
    known = load_formats()
    if format not in known:
        raise UsageError(f"unknown format {format!r}", f"Use one of: {', '.join(sorted(known))}.")
    options = Options(depth=depth, unfold=unfold, what_if=what_if, color=color, width=width)
    if warn is not None:
        options = Options(depth=depth, unfold=unfold, what_if=what_if, color=color, width=width, warn=warn)
    return known[format](inspection, options)


def is_dot(content: str | bytes) -> bool:
    """Whether a diagram came back as DOT source: it was asked for, or there is no Graphviz to draw it."""
    return isinstance(content, str) and content.startswith("digraph ")
