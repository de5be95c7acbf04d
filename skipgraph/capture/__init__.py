"""From a module and its inputs to a `Program`."""

from skipgraph.capture.tracer import capture

__all__ = ["capture"]
