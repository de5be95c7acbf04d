"""The formats that a report can be written in.

A format is one function, registered under its name by the module that holds it. Every module of this package is looked
at, and so is every entry point of the group ``skipgraph.report``.
"""

from __future__ import annotations

import importlib
import pkgutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skipgraph.inspection import Inspection


def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=4)


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asked for; a format takes what concerns it.

    Attributes
    ----------
    depth : int or None
        Module depth at which a diagram folds chains (None: what fits).
    unfold : bool
        Show repetitions one by one.
    what_if : bool
        Show what each possible rewrite would change.
    color : bool
        Colours in a table.
    width : int or None
        Characters in a line of a table.
    warn : callable
        Is told, in words for the user, whenever the result is less than what was asked for.
    """

    depth: int | None = None
    unfold: bool = False
    what_if: bool = False
    color: bool = False
    width: int | None = None
    warn: Callable[[str], None] = _warn


Format = Callable[["Inspection", Options], "str | bytes"]
_FORMATS: dict[str, Format] = {}


def register(name: str) -> Callable[[Format], Format]:
    """Register the decorated function as the format ``name``.

    Raises
    ------
    ValueError
        If the name is taken.
    """

    def keep(write: Format) -> Format:
        if name in _FORMATS:
            raise ValueError(f"report format {name!r} is registered twice")
        _FORMATS[name] = write
        return write

    return keep


@cache
def load_formats() -> dict[str, Format]:
    """All formats by name, this package's and those of other packages."""
    package = importlib.import_module("skipgraph.report")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"skipgraph.report.{module.name}")
    for entry_point in entry_points(group="skipgraph.report"):
        entry_point.load()
    return dict(_FORMATS)
