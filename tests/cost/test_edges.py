"""What each edge carries and what is spent on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from skipgraph.cost.edges import split
from tests.helpers.pricing import priced
from tests.helpers.tracing import Written

if TYPE_CHECKING:
    from skipgraph.graph import SkipGraph

IMAGE = torch.empty(2, 8, 6, 6)
POSITIONS = 2 * 36


def edges(graph: SkipGraph, merge: str, name: str) -> list[Any]:
    """One attribute of a node's operands, in their order."""
    return [
        data[name] for _, _, _, data in sorted(graph.in_edges(merge, keys=True, data=True), key=lambda edge: edge[2])
    ]


def concat(members: dict[str, nn.Module], between: Any = lambda self, x: x) -> SkipGraph:
    """Two branches of 3 and 5 channels, joined, something, and a convolution to 4 channels."""

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        return self.last(between(self, torch.cat([self.a(x), self.b(x)], 1)))

    return priced(Written(forward, a=nn.Conv2d(8, 3, 1), b=nn.Conv2d(8, 5, 1), **members), IMAGE)


def test_flops_of_all_edges_sum_to_those_of_all_nodes() -> None:
    layers = nn.ModuleDict({"q": nn.Linear(6, 6), "k": nn.Linear(6, 6)})
    model = Written(lambda self, x: (self.m["q"](x) @ self.m["k"](x).transpose(-1, -2)).softmax(-1) @ x, m=layers)
    graph = priced(model, IMAGE)
    assert sum(data["flops"] for *_, data in graph.edges(data=True)) == graph.cost.flops > 0


def test_a_product_of_two_activations_is_shared() -> None:
    graph = priced(Written(lambda self, x: x.exp() @ x.sin()), IMAGE)
    (product,) = [node for node, data in graph.nodes(data=True) if data["flops"]]
    inner = next(node for node in (product, *graph.pred[product]) if graph.in_degree(node) == 2)
    assert edges(graph, inner, "flops") == [2 * 8 * 6 * 6 * 6 // 2] * 2


def test_a_concat_hands_the_slices_of_the_weight_on() -> None:
    graph = concat({"last": nn.Conv2d(8, 4, 3, padding=1)})
    assert edges(graph, "cat", "flops") == [0, 0]
    assert edges(graph, "cat", "attributed_flops") == [POSITIONS * 4 * 9 * 3, POSITIONS * 4 * 9 * 5]


def test_channel_wise_operators_are_seen_through() -> None:
    norm = nn.BatchNorm2d(8)
    graph = concat({"last": nn.Conv2d(8, 4, 1), "norm": norm}, lambda self, x: torch.relu(self.norm(x)))
    convolution, normalisation = POSITIONS * 4 * 8, 2 * POSITIONS * 8
    assert edges(graph, "cat", "attributed_flops") == [(convolution + normalisation) * part // 8 for part in (3, 5)]
    assert edges(graph, "norm", "flops") == [normalisation]


def test_what_mixes_channels_is_not_seen_through() -> None:
    graph = concat({"last": nn.Conv2d(8, 4, 1)}, lambda self, x: x.softmax(1))
    assert edges(graph, "cat", "attributed_flops") == [0, 0]


def test_grouped_convolutions_share_by_channels_too() -> None:
    graph = concat({"last": nn.Conv2d(8, 8, 3, groups=8)})
    assert edges(graph, "cat", "attributed_flops") == [2 * 16 * 9 * 3, 2 * 16 * 9 * 5]


def test_nested_concats_share_what_they_are_handed() -> None:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        inner = torch.cat([x, x.exp()], 1)
        return self.last(torch.cat([inner, x.sin(), inner.cos()], 1))

    graph = priced(Written(forward, last=nn.Conv2d(40, 4, 1)), IMAGE)
    whole = POSITIONS * 4 * 40
    assert edges(graph, "cat_1", "attributed_flops") == [whole * 2 // 5, whole // 5, whole * 2 // 5]
    assert edges(graph, "cat", "attributed_flops") == [whole * 2 // 5] * 2


def test_a_gate_leaves_the_flops_to_the_data() -> None:
    model = Written(
        lambda self, x: self.last(self.a(x) * torch.sigmoid(self.b(x))),
        a=nn.Conv2d(8, 8, 1), b=nn.Conv2d(8, 8, 1), last=nn.Conv2d(8, 4, 1),
    )  # fmt: skip
    assert edges(priced(model, IMAGE), "mul", "attributed_flops") == [POSITIONS * 4 * 8, 0]


def test_bytes_steps_and_peak() -> None:
    graph = priced(Written(lambda self, x: (lambda y: y + y.sin().cos().tan())(x.exp())), IMAGE)
    assert edges(graph, "add", "bytes") == [IMAGE.nbytes] * 2
    assert edges(graph, "add", "held_steps") == [4, 1]
    assert graph.cost.peak_step == 3
    assert edges(graph, "add", "held_at_peak") == [True, False]
    assert edges(graph, "tan", "held_at_peak") == [True]


@given(st.integers(0, 10**12), st.lists(st.integers(0, 10**6), min_size=1, max_size=8))
def test_split_loses_nothing(total: int, weights: list[int]) -> None:
    parts = split(total, weights)
    if sum(weights):
        assert sum(parts) == total
        assert all(abs(part - total * weight / sum(weights)) < 2 for part, weight in zip(parts, weights, strict=True))
    else:
        assert parts == [0] * len(weights)
