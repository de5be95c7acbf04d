"""The textual form of a graph: golden files of three fixtures, and the rules that they do not happen to show."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import networkx as nx
import pytest
import torch
from torch import nn

import skipgraph
from skipgraph.dump import dump
from skipgraph.graph import SkipGraph
from tests.helpers import fixtures
from tests.helpers.tracing import Written, conv, detected, graph_of, image

if TYPE_CHECKING:
    from collections.abc import Callable


def lines_of(graph: SkipGraph) -> dict[str, str]:
    """What stands before ``=`` in every line -> what stands after it."""
    pairs = (line.split(" = ", 1) for line in dump(graph).splitlines() if line)
    return {left.strip(): right for left, right in pairs}


@pytest.mark.parametrize("name", ["resnet", "densenet", "highway"])
def test_golden(name: str, golden: Callable[[str, str], None]) -> None:
    fixture = fixtures.load(name)
    golden(f"{name}.txt", dump(skipgraph.trace(fixture.model_class(), fixture.example_inputs)))


def test_order_of_insertion_does_not_matter() -> None:
    fixture = fixtures.load("dual_path")
    graph = skipgraph.trace(fixture.model_class(), fixture.example_inputs)
    shuffled = SkipGraph()
    for items, add in ((graph.nodes(data=True), shuffled.add_nodes_from), (graph.edges(keys=True, data=True), None)):
        listed = list(items)
        random.Random(0).shuffle(listed)
        (add or shuffled.add_edges_from)(listed)
    shuffled.merges, shuffled.gates = list(reversed(graph.merges)), graph.gates
    assert list(shuffled) != list(graph)
    assert dump(shuffled) == dump(graph)


def test_survives_node_link_data() -> None:
    graph = graph_of(conv(), (image(),))
    data = nx.node_link_data(graph, edges="edges")
    assert dump(SkipGraph(nx.node_link_graph(data, edges="edges"))) == dump(graph)


def test_every_operand_has_its_place() -> None:
    graph = graph_of(Written(lambda self, x, y: torch.cat([x, y, x], 1)), (image(), image()))
    assert (
        lines_of(graph)["%cat"]
        == "cat(%args.0, %args.1, %args.0) 2x24x16x16 concat [axis=1:space positions=6144 output]"
    )


def test_operands_in_front_that_are_no_data() -> None:
    graph = graph_of(
        Written(lambda self, x: self.weight @ x, weight=nn.Parameter(torch.ones(5, 8))), (torch.ones(8, 2),)
    )
    assert lines_of(graph)["%mm"].startswith("mm(_, %args.0) 5x2 layer")


def test_dtype_scalar_and_dead_ends() -> None:
    def forward(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        x.relu()
        return x.half().sum()

    lines = lines_of(graph_of(Written(forward), (torch.ones(2, 3),)))
    assert lines["%relu"] == "relu(%args.0) 2x3 activation [positions=3 dead]"
    assert lines["%_to_copy"].split()[-3:] == ["2x3:float16", "linear_map", "[positions=3]"]
    assert "scalar:float16" in lines["%sum"]


def test_slices_say_what_they_take() -> None:
    lines = lines_of(graph_of(Written(lambda self, x: x[:, 2:6]), (image(),)))
    assert lines["%slice"] == "slice(%args.0) 2x4x16x16 slice [axis=1 slice=2:6:1 positions=1024 output]"


def test_labels_of_skips() -> None:
    def forward(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        down = nn.functional.max_pool2d(x, 2)
        a = torch.cat([down, self.first(down)], 1)
        b = torch.cat([a, self.second(a)], 1)
        up = nn.functional.interpolate(self.third(b), scale_factor=2.0)
        return x + up

    model = Written(forward, first=conv(), second=conv(16, 8), third=conv(24, 8))
    lines = lines_of(detected(model, (image(),)))
    assert lines["skip cat:0"] == "short identity concat from %max_pool past 1 layer [nesting=1]"
    assert lines["skip cat_1:0"] == "short identity concat from %cat past 1 layer [nesting=1 edges=2]"
    assert lines["skip add:0"] == "long identity add from %args.0 past 3 layers [coarsest=0.25]"


def test_merges_put_together_and_merges_that_are_none() -> None:
    def forward(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        joined = x + self.first(x) + self.second(x)
        return torch.cat([joined, joined.flip(2)], 2)

    lines = lines_of(detected(Written(forward, first=conv(), second=conv()), (image(),)))
    assert lines["merge %add_1"] == "add(%args.0, %first, %second) with %add: skip"
    assert lines["merge %cat"] == "concat(%add_1, %flip) axis=2: other_axis"
