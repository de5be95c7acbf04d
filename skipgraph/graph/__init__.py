"""The dataflow graph: its types, and how it is built from a captured program."""

from skipgraph.graph.build import build
from skipgraph.graph.types import Cost, Counts, EdgeAttributes, Gate, Merge, NodeAttributes, Skip, SkipGraph

__all__ = ["Cost", "Counts", "EdgeAttributes", "Gate", "Merge", "NodeAttributes", "Skip", "SkipGraph", "build"]
