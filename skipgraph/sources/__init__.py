"""A SPEC, as the user writes it, to a module and inputs for it.

One file a kind of SPEC. The files find themselves: every module of this package is imported, and so is every entry
point of the group ``skipgraph.sources``; each calls `skipgraph.sources.registry.register`.
"""

from __future__ import annotations

import importlib
import pkgutil
from importlib.metadata import entry_points

from skipgraph.sources.loading import Source, load
from skipgraph.sources.registry import Example, Kind, Recipe, kinds, register

__all__ = ["Example", "Kind", "Recipe", "Source", "kinds", "load", "register"]


def _load_kinds() -> None:
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    for entry_point in entry_points(group="skipgraph.sources"):
        entry_point.load()


_load_kinds()
