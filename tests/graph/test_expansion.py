"""Fused operators are what they compute, and writes in place reach whoever reads the memory afterwards."""

from __future__ import annotations

from typing import Any

import networkx as nx
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipgraph.graph import SkipGraph
from tests.helpers.tracing import Written, conv, detected, graph_of, image, tokens

META = {"device": "meta"}


def sources(graph: SkipGraph, node: str) -> list[str]:
    return [source for _, source in graph.operands(node)]


def kinds(graph: SkipGraph) -> dict[str, str]:
    return {node: data["kind"] for node, data in graph.nodes(data=True)}


def matrices(*shapes: tuple[int, ...]) -> tuple[Tensor, ...]:
    return tuple([torch.empty(shape, **META) for shape in shapes])


def test_addmm_with_a_data_bias_is_a_product_and_a_sum() -> None:
    graph = graph_of(
        Written(lambda m, b, x: torch.addmm(b, x, m.w), w=nn.Parameter(*matrices((4, 5)))), matrices((3, 5), (3, 4))
    )
    assert kinds(graph) == {"args.0": "input", "args.1": "input", "mm": "layer", "add": "sum"}
    assert (sources(graph, "mm"), sources(graph, "add")) == (["args.1"], ["args.0", "mm"])


def test_addmm_with_a_parameter_as_bias_is_one_layer() -> None:
    graph = graph_of(nn.Linear(4, 5, **META), matrices((3, 4)))
    assert [kind for kind in kinds(graph).values() if kind != "input"] == ["layer"]


def test_baddbmm() -> None:
    graph = graph_of(Written(lambda m, b, x, y: torch.baddbmm(b, x, y)), matrices((2, 3, 5), (2, 3, 4), (2, 4, 5)))
    assert (kinds(graph)["bmm"], kinds(graph)["add"]) == ("matmul", "sum")
    assert (sources(graph, "bmm"), sources(graph, "add")) == (["args.1", "args.2"], ["args.0", "bmm"])


def test_addcmul() -> None:
    graph = graph_of(Written(lambda m, a, b, c: torch.addcmul(a, b, c)), (image(), image(), image()))
    assert (kinds(graph)["mul"], kinds(graph)["add"]) == ("product", "sum")
    assert (sources(graph, "mul"), sources(graph, "add")) == (["args.1", "args.2"], ["args.0", "mul"])


def test_lerp() -> None:
    graph = graph_of(Written(lambda m, a, b, g: torch.lerp(a, b, g)), (image(), image(), image()))
    assert sources(graph, "add") == ["mul", "mul_1"]
    assert (sources(graph, "mul"), sources(graph, "mul_1")) == (["args.0", "args.2"], ["args.1", "args.2"])


def test_a_write_into_one_slice_is_seen_by_the_whole() -> None:
    def forward(m: Any, x: Tensor, y: Tensor) -> Tensor:
        h = m.f(x)
        h[:, :4] += y
        return m.g(h)

    graph = detected(Written(forward, f=conv(), g=conv()), (image(), image(4)))
    assert nx.has_path(graph, "args.1", "g")
    assert {"f", "args.1"} <= nx.ancestors(graph, "add")
    assert [merge.operands for merge in graph.merges] == [("slice", "args.1")]


def test_a_write_into_one_chunk_of_three_leaves_the_others() -> None:
    def forward(m: Any, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        first, second, third = m.f(x).chunk(3, 1)
        second.add_(y)
        return m.g(first), m.g(second), m.g(third)

    graph = graph_of(Written(forward, f=conv(8, 24), g=conv()), (image(), image()))
    reached = [node for node in ("g", "g_1", "g_2") if "args.1" in nx.ancestors(graph, node)]
    assert reached == ["g_1"]


def test_item_assignment_replaces_what_was_there() -> None:
    def forward(m: Any, x: Tensor, y: Tensor) -> Tensor:
        h = m.f(x)
        h[:, :] = m.g(y)
        return torch.relu(h)

    graph = graph_of(Written(forward, f=conv(), g=conv()), (image(), image()))
    assert "g" in nx.ancestors(graph, "relu")
    assert "f" not in nx.ancestors(graph, "relu")
    assert not graph.nodes["f"]["live"]


def test_item_assignment_of_a_part_keeps_the_rest() -> None:
    def forward(m: Any, x: Tensor, y: Tensor) -> Tensor:
        h = m.f(x)
        h[:, 2:4] = y
        return torch.relu(h)

    graph = graph_of(Written(forward, f=conv()), (image(), image(2)))
    assert {"f", "args.1"} <= nx.ancestors(graph, "relu")


def test_a_view_made_before_a_write_sees_it() -> None:
    def forward(m: Any, x: Tensor, y: Tensor) -> Tensor:
        h = m.f(x)
        flat = h.flatten(1)
        h.mul_(y)
        return torch.relu(flat)

    graph = graph_of(Written(forward, f=conv()), (image(), image()))
    assert "args.1" in nx.ancestors(graph, "relu")


def test_a_copy_made_before_a_write_does_not() -> None:
    def forward(m: Any, x: Tensor, y: Tensor) -> Tensor:
        h = m.f(x)
        copy = h.clone()
        h.mul_(y)
        return torch.relu(copy)

    graph = graph_of(Written(forward, f=conv()), (image(), image()))
    assert "args.1" not in nx.ancestors(graph, "relu")


def test_gru_cell_interpolates_between_its_state_and_a_candidate() -> None:
    graph = detected(nn.GRUCell(8, 8, **META), matrices((2, 8), (2, 8)))
    assert [(skip.kind, skip.source) for skip in graph.skips] == [("gated", "hx")]


def test_lstm_cell_is_entered() -> None:
    graph = detected(
        Written(lambda m, x, h, c: m.cell(x, (h, c)), cell=nn.LSTMCell(8, 8, **META)), matrices((2, 8), (2, 8), (2, 8))
    )
    assert sum(data["kind"] == "gate" for _, data in graph.nodes(data=True)) == 3
    assert graph.number_of_nodes() > 10


def test_recurrent_modules_are_one_node_each() -> None:
    for module in (nn.LSTM(8, 8, 2, bidirectional=True, **META), nn.GRU(8, 8, **META), nn.RNN(8, 8, **META)):
        graph = graph_of(module, (tokens(),))
        (node,) = [node for node in graph if graph.nodes[node]["kind"] == "recurrent"]
        assert graph.nodes[node]["layer"]
        assert graph.nodes[node]["nonlinear"]
        assert len(graph) <= 3


def test_a_composite_inside_a_residual() -> None:
    attention = nn.MultiheadAttention(8, 2, batch_first=True, **META)
    graph = detected(Written(lambda m, x: x + m.attention(x, x, x)[0], attention=attention), (tokens(),))
    assert kinds(graph) == {"args.0": "input", "attention": "attention_layer", "add": "sum"}
    assert list(graph.operands("attention")) == [(0, "args.0"), (1, "args.0"), (2, "args.0")]
    assert graph.counts.skips == 1


def test_sampling_at_computed_positions_reads_both() -> None:
    graph = graph_of(Written(lambda m, x, g: F.grid_sample(x, g)), (image(), torch.empty(2, 4, 4, 2, **META)))
    assert sources(graph, "grid_sampler") == ["args.0", "args.1"]
