"""What the reports are tested on: hand-drawn graphs, and every file of fixtures/."""

from __future__ import annotations

from functools import cache

import skipgraph
from skipgraph.inspection import Inspection
from tests.helpers import fixtures
from tests.report.sketches import SKETCHES


@cache
def sketch(name: str) -> Inspection:
    """One of the hand-drawn graphs."""
    graph = SKETCHES[name]()
    shape = list(graph.nodes["input"]["shape"])
    inputs = [{"name": "input", "shape": shape, "dtype": "float32"}]
    return Inspection(name, "random", graph, inputs, "meta")


@cache
def fixture(name: str) -> Inspection:
    """One of fixtures/, inspected."""
    loaded = fixtures.load(name)
    return skipgraph.inspect(loaded.model_class().eval(), loaded.example_inputs, spec=f"fixtures/{name}.py")
