"""From a module and its inputs to a `Program`."""

from skipgraph.capture.calls import ScopedGraph
from skipgraph.capture.runnable import Captured, copied, runnable
from skipgraph.capture.tracer import capture

__all__ = ["Captured", "ScopedGraph", "capture", "copied", "runnable"]
