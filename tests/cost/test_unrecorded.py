"""Graphs without a program: made by hand, or read back from a file."""

from __future__ import annotations

import json
from typing import Any

import networkx as nx
import torch
from torch import nn

from skipgraph.cost import price
from skipgraph.graph import Merge, Skip, SkipGraph
from tests.helpers.pricing import priced


def graph_of(*rows: tuple[str, str, list[str], dict[str, Any]]) -> SkipGraph:
    """Nodes as ``(name, kind, operands, attributes)``, of 1000 float32 each."""
    graph = SkipGraph()
    for index, (name, kind, operands, attributes) in enumerate(rows):
        given = {"op": "input" if kind == "input" else name, "kind": kind, "index": index, "shape": (1000,),
                 "dtype": "float32", "output": False, "axis": None}  # fmt: skip
        graph.add_node(name, **{**given, **attributes})
        for position, operand in enumerate(operands):
            graph.add_edge(operand, name, key=position, operand=position)
    return graph


def residual(**last: Any) -> SkipGraph:
    return graph_of(
        ("x", "input", [], {}),
        ("a", "layer", ["x"], {"flops": 10}),
        ("view", "view", ["a"], {}),
        ("b", "layer", ["view"], {"flops": 20}),
        ("c", "layer", ["b"], {"flops": 30}),
        ("sum", "sum", ["view", "c"], {"output": True, **last}),
    )


def test_blocks_go_at_their_last_use() -> None:
    graph = residual()
    price(graph)
    cost = graph.cost
    assert (cost.flops, cost.steps, cost.activation_bytes) == (60, 4, 4 * 4000)
    assert cost.peak_bytes == cost.peak_bytes_last_use == 4 * 4000  # x, a through its view, b and c
    assert (cost.peak_step, cost.peak_node) == (3, "c")
    assert graph.nodes["view"]["is_view"]
    assert not graph.nodes["sum"]["held_at_peak"]
    assert graph["view"]["sum"][0]["held_steps"] == 3


def test_skips_are_priced() -> None:
    graph = residual()
    skip = Skip("sum:0", "sum", "view", "add", "short", "identity", 0, "view", leaves_last="b")
    graph.merges = [Merge("sum", "sum", "add", None, ("view", "c"), [skip], nodes=("sum",))]
    price(graph)
    assert (skip.bytes, skip.held_steps, skip.byte_steps, skip.held_at_peak) == (4000, 2, 8000, True)


def test_a_priced_graph_read_back_has_the_same_peak_at_last_use() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Conv2d(8, 40, 3))
    graph = priced(model, torch.empty(1, 3, 40, 40))
    data = json.loads(json.dumps(nx.node_link_data(graph, edges="edges")))
    back = SkipGraph(nx.node_link_graph(data, edges="edges"))
    price(back)
    assert back.cost.peak_bytes == graph.cost.peak_bytes_last_use
    assert back.cost.flops == graph.cost.flops


def test_a_long_chain_takes_no_stack() -> None:
    rows: list[Any] = [("x", "input", [], {})]
    rows += [(f"n{place}", "layer", [f"n{place - 1}" if place else "x"], {"flops": 1}) for place in range(5000)]
    graph = graph_of(*rows)
    price(graph)
    assert graph.cost.flops == 5000
    assert graph.cost.peak_bytes == 3 * 4000
