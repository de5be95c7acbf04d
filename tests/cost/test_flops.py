"""Multiply-adds by hand, and against fvcore to the unit."""

from __future__ import annotations

import logging
import math
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from tests.helpers.pricing import priced
from tests.helpers.tracing import Written

if TYPE_CHECKING:
    from collections.abc import Callable

    from skipgraph.graph import Cost


def cost(model: nn.Module | Callable[..., Any], *inputs: torch.Tensor, train: bool = False) -> Cost:
    module = model if isinstance(model, nn.Module) else Written(lambda self, *args: model(*args))
    return priced(module, *inputs, train=train).cost


IMAGE = torch.empty(2, 6, 8, 10)
TOKENS = torch.empty(3, 7, 12)

# What it is, its inputs, and its multiply-adds counted by hand.
BY_HAND: dict[str, tuple[Any, tuple[torch.Tensor, ...], int]] = {
    "convolution": (nn.Conv2d(6, 4, 3), (IMAGE,), 2 * 4 * 6 * 9 * 6 * 8),
    "strided, padded, grouped": (nn.Conv2d(6, 4, 3, stride=2, padding=1, groups=2), (IMAGE,), 2 * 4 * 3 * 9 * 4 * 5),
    "transposed": (nn.ConvTranspose2d(6, 4, 2, stride=2), (IMAGE,), 2 * 6 * 4 * 4 * 8 * 10),
    "one axis": (nn.Conv1d(12, 5, 3, padding=1), (torch.empty(3, 12, 7),), 3 * 5 * 12 * 3 * 7),
    "linear": (nn.Linear(12, 5), (TOKENS,), 3 * 7 * 12 * 5),
    "linear without bias": (nn.Linear(12, 5, bias=False), (TOKENS,), 3 * 7 * 12 * 5),
    "bilinear": (nn.Bilinear(4, 5, 6), (torch.empty(3, 4), torch.empty(3, 5)), 3 * 4 * 5 * 6),
    "batch norm": (nn.BatchNorm2d(6), (IMAGE,), 2 * IMAGE.numel()),
    "batch norm without weight": (nn.BatchNorm2d(6, affine=False), (IMAGE,), IMAGE.numel()),
    "layer norm": (nn.LayerNorm(12), (TOKENS,), 5 * TOKENS.numel()),
    "layer norm without weight": (nn.LayerNorm(12, elementwise_affine=False), (TOKENS,), 4 * TOKENS.numel()),
    "layer norm of a vector": (nn.LayerNorm(12), (torch.empty(12),), 5 * 12),
    "group norm": (nn.GroupNorm(3, 6), (IMAGE,), 5 * IMAGE.numel()),
    "instance norm": (nn.InstanceNorm2d(6), (IMAGE,), 4 * IMAGE.numel()),
    "instance norm with statistics": (
        nn.InstanceNorm2d(6, affine=True, track_running_stats=True), (IMAGE,), 5 * IMAGE.numel()
    ),
    "pooling to one position": (nn.AdaptiveAvgPool2d(1), (IMAGE,), IMAGE.numel()),
    "pooling to four": (nn.AdaptiveAvgPool2d(2), (IMAGE,), IMAGE.numel()),
    "nearest": (nn.Upsample(scale_factor=2), (IMAGE,), 4 * IMAGE.numel()),
    "bilinear upsampling": (nn.Upsample(scale_factor=2, mode="bilinear"), (IMAGE,), 16 * IMAGE.numel()),
    "trilinear": (nn.Upsample(scale_factor=2, mode="trilinear"), (torch.empty(1, 2, 3, 4, 5),), 8 * 8 * 120),
    "two activations": (torch.matmul, (torch.empty(3, 7, 12), torch.empty(3, 12, 5)), 3 * 7 * 12 * 5),
    "einsum": (
        lambda a, b: torch.einsum("bij,bjk->bik", a, b), (torch.empty(3, 7, 12), torch.empty(3, 12, 5)), 3 * 7 * 12 * 5
    ),
    "matrix and vector": (torch.mv, (torch.empty(7, 12), torch.empty(12)), 7 * 12),
    "baddbmm": (torch.baddbmm, (torch.empty(3, 7, 5), torch.empty(3, 7, 12), torch.empty(3, 12, 5)), 3 * 7 * 12 * 5),
    "attention": (
        F.scaled_dot_product_attention,
        (torch.empty(2, 4, 7, 8), torch.empty(2, 4, 9, 8), torch.empty(2, 4, 9, 6)),
        2 * 4 * 7 * 9 * (8 + 6),
    ),
    "lstm": (nn.LSTM(12, 16, 2, bidirectional=True), (TOKENS,), 3 * 7 * 2 * 4 * 16 * ((12 + 16) + (32 + 16))),
    "gru": (nn.GRU(12, 16, batch_first=True), (TOKENS,), 3 * 7 * 3 * 16 * (12 + 16)),
    "rnn": (nn.RNN(12, 16), (TOKENS,), 3 * 7 * 16 * (12 + 16)),
    "lstm with projection": (nn.LSTM(12, 16, proj_size=4), (TOKENS,), 3 * 7 * (4 * 16 * (12 + 4) + 4 * 16)),
    "real transform": (torch.fft.rfft, (torch.empty(3, 8),), round(1.25 * 24 * 3)),
}  # fmt: skip


@pytest.mark.parametrize("name", BY_HAND)
def test_by_hand(name: str) -> None:
    model, inputs, flops = BY_HAND[name]
    assert cost(model, *inputs).flops == flops


def test_batch_statistics_cost_more() -> None:
    assert cost(nn.BatchNorm2d(6), IMAGE, train=True).flops == 5 * IMAGE.numel()


def test_multi_head_attention_sums_projections_and_products() -> None:
    attention = nn.MultiheadAttention(12, 3, batch_first=True)
    model = Written(lambda self, x: self.attention(x, x, x, need_weights=False)[0], attention=attention)
    found = cost(model, TOKENS)
    projections, products = 3 * 7 * 4 * 12 * 12, 3 * 2 * 7 * 7 * 12
    assert found.flops == projections + products
    assert found.flops_by_operator["scaled_dot_product_attention"] == products
    assert found.own_rules == ("scaled_dot_product_attention",)


def test_what_nobody_prices_is_listed() -> None:
    found = cost(lambda x: torch.relu(x).exp().exp() + x.view(-1).view(x.shape), IMAGE)
    assert found.flops == 0
    assert found.unpriced_operators == {"exp": 2, "relu": 1, "add": 1}


def test_constants_are_priced_too() -> None:
    table = nn.Linear(4, 12, bias=False)
    model = Written(
        lambda self, x: x + self.table(self.positions), table=table, positions=nn.Parameter(torch.ones(7, 4))
    )
    assert cost(model, TOKENS).flops == 7 * 4 * 12


def test_a_module_that_runs_twice_costs_twice() -> None:
    model = Written(lambda self, x: self.layer(self.layer(x)), layer=nn.Linear(12, 12))
    assert cost(model, TOKENS).flops == 2 * 3 * 7 * 12 * 12


class Everything(nn.Module):
    """Most of what fvcore has a rule for, with the arguments in more than one place."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norms = nn.Sequential(nn.BatchNorm2d(8), nn.GroupNorm(2, 8), nn.InstanceNorm2d(8, affine=True))
        self.deep = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8)
        self.up = nn.ConvTranspose2d(8, 8, 2, stride=2)
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.deep(self.norms(self.stem(image)))
        x = F.interpolate(self.up(x), scale_factor=0.5, mode="bilinear") + F.interpolate(x, scale_factor=1.0)
        grid = torch.tanh(x.permute(0, 2, 3, 1)[..., :2])
        x = F.grid_sample(x, grid, align_corners=False)
        tokens = self.norm(x.flatten(2).transpose(1, 2))
        tokens = self.attention(tokens, tokens, tokens)[0]
        scores = torch.einsum("bic,bjc->bij", tokens, tokens)
        tokens = scores.softmax(-1) @ tokens
        pooled = F.adaptive_avg_pool2d(tokens.transpose(1, 2).unflatten(2, x.shape[2:]), 1)
        return self.head(pooled.flatten(1))


def fvcore_total(model: nn.Module, *inputs: torch.Tensor) -> int:
    from fvcore.nn import FlopCountAnalysis

    logging.disable(logging.WARNING)
    try:
        return int(FlopCountAnalysis(model.eval(), inputs).total())
    finally:
        logging.disable(logging.NOTSET)


def shared_total(found: Cost) -> int:
    """Our total on operators that fvcore has a rule for."""
    return found.flops - sum(found.flops_by_operator[name] for name in found.own_rules)


def test_equals_fvcore_on_everything() -> None:
    model, image = Everything(), torch.randn(2, 3, 16, 16)
    found = cost(model, image)
    assert not found.own_rules
    assert found.flops == fvcore_total(model, image)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "shufflenet_v2_x0_5", "squeezenet1_1"])
def test_equals_fvcore_on_public_models(name: str) -> None:
    import torchvision

    model, image = getattr(torchvision.models, name)(weights=None), torch.randn(1, 3, 64, 64)
    assert shared_total(cost(model, image)) == fvcore_total(model, image)


def test_equals_fvcore_on_a_vision_transformer_apart_from_attention() -> None:
    import torchvision

    model = torchvision.models.VisionTransformer(32, 8, 2, 4, 32, 64, num_classes=10)
    image = torch.randn(1, 3, 32, 32)
    found = cost(model, image)
    assert shared_total(found) == fvcore_total(model, image)
    assert found.flops_by_operator["scaled_dot_product_attention"] == 2 * 2 * 17 * 17 * 32


@given(
    channels=st.sampled_from([(4, 6, 2), (4, 4, 4), (3, 5, 1)]),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 2),
    padding=st.integers(0, 2),
    transposed=st.booleans(),
    size=st.integers(5, 9),
)
@settings(max_examples=25, deadline=None)
def test_convolutions_count_the_taps_of_every_result(
    channels: tuple[int, int, int], kernel: int, stride: int, padding: int, transposed: bool, size: int
) -> None:
    inner, outer, groups = channels
    make = nn.ConvTranspose2d if transposed else nn.Conv2d
    layer = make(inner, outer, kernel, stride=stride, padding=min(padding, kernel), groups=groups)
    image = torch.empty(2, inner, size, size + 1)
    places = image.shape[2:] if transposed else layer.to("meta")(image.to("meta")).shape[2:]
    assert cost(layer, image).flops == 2 * math.prod(places) * layer.weight.numel()


def test_dropping_what_reaches_no_output_explains_the_rest() -> None:
    model = Written(lambda self, x: (self.unused(x), self.used(x))[1], unused=nn.Linear(12, 5), used=nn.Linear(12, 3))
    graph = priced(model, TOKENS)
    dead = Counter({node: data["flops"] for node, data in graph.nodes(data=True) if not data["live"]})
    assert graph.cost.flops - dead.total() == fvcore_total(model, torch.randn(3, 7, 12))
