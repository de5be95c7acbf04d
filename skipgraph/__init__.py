"""Find, classify, price and draw every skip connection of a PyTorch model.

The names below are loaded when they are first used, so that ``import skipgraph`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skipgraph.bench import bench
    from skipgraph.delivery import emit, standalone
    from skipgraph.distillation import distill
    from skipgraph.errors import SkipgraphError
    from skipgraph.graph import Cost, Counts, Gate, Merge, Skip, SkipGraph
    from skipgraph.inspection import Inspection, inspect, trace
    from skipgraph.passes import ConcatToSum, SumToConcat
    from skipgraph.report import render
    from skipgraph.rewriting import Rewritten, rewrite

__version__ = "0.1.0"
__all__ = [
    "ConcatToSum",
    "Cost",
    "Counts",
    "Gate",
    "Inspection",
    "Merge",
    "Rewritten",
    "Skip",
    "SkipGraph",
    "SkipgraphError",
    "SumToConcat",
    "__version__",
    "bench",
    "distill",
    "emit",
    "inspect",
    "render",
    "rewrite",
    "standalone",
    "trace",
]

_HOMES = {
    "ConcatToSum": "skipgraph.passes",
    "Cost": "skipgraph.graph",
    "Counts": "skipgraph.graph",
    "Gate": "skipgraph.graph",
    "Inspection": "skipgraph.inspection",
    "Merge": "skipgraph.graph",
    "Rewritten": "skipgraph.rewriting",
    "Skip": "skipgraph.graph",
    "SkipGraph": "skipgraph.graph",
    "SkipgraphError": "skipgraph.errors",
    "SumToConcat": "skipgraph.passes",
    "bench": "skipgraph.bench",
    "distill": "skipgraph.distillation",
    "emit": "skipgraph.delivery",
    "inspect": "skipgraph.inspection",
    "render": "skipgraph.report",
    "rewrite": "skipgraph.rewriting",
    "standalone": "skipgraph.delivery",
    "trace": "skipgraph.inspection",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
