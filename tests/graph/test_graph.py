"""The graph as a graph: what networkx makes of it, its names, and that it can be written down and read back."""

from __future__ import annotations

import json
from typing import Any

import networkx as nx
import pytest
import torch
from torch.nn import functional as F

from skipgraph.graph import SkipGraph
from skipgraph.skips import find_skips
from tests.helpers import fixtures
from tests.helpers.tracing import Written, block, conv, detected, graph_of, image, tokens


def fixture_graph(name: str) -> SkipGraph:
    fixture = fixtures.load(name)
    return graph_of(fixture.model_class(), fixture.example_inputs)


def test_networkx_algorithms_take_it() -> None:
    graph = fixture_graph("resnet")
    assert nx.is_directed_acyclic_graph(graph)
    assert nx.is_weakly_connected(graph)
    order = sorted(graph, key=lambda node: graph.nodes[node]["index"])
    place = {node: number for number, node in enumerate(order)}
    assert all(place[source] < place[target] for source, target in graph.edges())
    layers = {node for node in graph if graph.nodes[node]["layer"]}
    path = nx.dag_longest_path(nx.DiGraph(graph))
    assert len(layers & set(path)) == 18  # stem, two a block, head
    assert nx.immediate_dominators(graph, "image")["stages.0.0.add"] == "stem.3"
    assert isinstance(graph.subgraph(order[:5]).copy(), SkipGraph)


@pytest.mark.parametrize("name", ["densenet", "conditioned_unet", "lstm_unrolled", "transformer_decoder"])
def test_round_trip(name: str) -> None:
    graph = fixture_graph(name)
    text = json.dumps(nx.node_link_data(graph, edges="edges"))
    back = nx.node_link_graph(json.loads(text), edges="edges")
    assert nx.utils.graphs_equal(_listed(graph), _listed(back))
    again = SkipGraph(back)
    find_skips(again)
    find_skips(graph)
    assert again.counts == graph.counts


def _listed(graph: nx.MultiDiGraph) -> nx.MultiDiGraph:
    """JSON knows no tuples."""
    listed = nx.MultiDiGraph(**graph.graph)
    for node, data in graph.nodes(data=True):
        listed.add_node(node, **{k: list(v) if isinstance(v, tuple) else v for k, v in data.items()})
    listed.add_edges_from(graph.edges(keys=True, data=True))
    return listed


def test_operands_keep_their_places() -> None:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        h = m.conv(x)
        return torch.cat([h, x, h], 1)

    graph = graph_of(Written(forward, conv=conv()), (image(),))
    assert list(graph.operands("cat")) == [(0, "conv"), (1, "args.0"), (2, "conv")]
    assert graph.number_of_edges("conv", "cat") == 2
    assert graph.edges["args.0", "cat", 1]["operand"] == 1


def test_one_tensor_as_query_key_and_value() -> None:
    graph = graph_of(Written(lambda m, x: F.scaled_dot_product_attention(x, x, x)), (tokens(),))
    assert list(graph.operands("scaled_dot_product_attention")) == [(place, "args.0") for place in range(3)]


def test_names_are_unique_and_those_of_the_modules() -> None:
    graph = fixture_graph("resnet")
    assert {"image", "stem.0", "stages.1.0.downsample.0", "stages.1.0.add", "head"} <= set(graph)
    assert graph.nodes["stages.1.0.conv1"]["call"] == "torch.nn.Conv2d"
    assert graph.nodes["stages.1.0.add"]["call"] == "Tensor.add_"
    assert graph.nodes["stages.1.0.add"]["module"] == "stages.1.0"
    assert graph.graph["modules"]["stages.1.0"] == "BasicBlock"
    assert graph.nodes["image"]["kind"] == "input"
    assert graph.nodes["head"]["output"]
    assert graph.nodes["stages.1.0.add"]["shape"] == (1, 32, 12, 12)
    assert graph.nodes["stages.1.0.add"]["dtype"] == "float32"


def test_a_module_called_twice_has_two_nodes() -> None:
    graph = graph_of(Written(lambda m, x: m.conv(m.conv(x)), conv=conv()), (image(),))
    assert list(graph.operands("conv_1")) == [(0, "conv")]


def test_parameters_constants_masks_and_indices_are_no_edges() -> None:
    def forward(m: Any, x: torch.Tensor, table: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        position = torch.arange(16, device=x.device).float().view(1, 1, 1, 16)
        masked = torch.where(x > 0, x, torch.zeros_like(x)) + position
        return m.conv(masked) + F.embedding(rows, table).sum() * 0

    rows = torch.zeros(3, dtype=torch.int64, device="meta")
    table = torch.empty(5, 4, device="meta")
    graph = graph_of(Written(forward, conv=conv()), (image(), table, rows))
    assert list(graph.operands("conv")) == [(0, "add")]
    assert [source for _, source in graph.operands("add")] == ["where"]
    assert [source for _, source in graph.operands("embedding")] == ["args.1"]


def test_dead_nodes_are_marked() -> None:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        (x + m.conv(x)).mean()
        return torch.relu(x)

    graph = detected(Written(forward, conv=conv()), (image(),))
    assert not graph.nodes["conv"]["live"]
    assert graph.nodes["relu"]["live"]
    assert graph.merges == []


def test_found_skips_stand_on_their_edges() -> None:
    graph = detected(Written(lambda m, x: x + m.f(x), f=block()), (image(),))
    (skip,) = graph.skips
    assert graph.edges["args.0", "add", 0]["skips"] == (skip.id,) == ("add:0",)
    assert graph.edges["f.3", "add", 1]["skips"] == ()
    assert (skip.source, skip.operand_node, skip.merge, skip.stem) == ("args.0", "args.0", "add", ())
    assert (skip.bypassed_layers, skip.leaves_last, skip.nesting, skip.coarsest_scale) == (2, "f.0", 0, 1.0)
