"""The whole way from a model to a rewritten one, and back."""

from skipgraph.rewriting.capturing import captured
from skipgraph.rewriting.result import Execution, Rewrite, Rewritten
from skipgraph.rewriting.undoing import rejoin, undo
from skipgraph.rewriting.ways import apply, planned, rewrite, trade_off

__all__ = [
    "Execution",
    "Rewrite",
    "Rewritten",
    "apply",
    "captured",
    "planned",
    "rejoin",
    "rewrite",
    "trade_off",
    "undo",
]
