"""Which axis is batch, feature or space, and how many positions a tensor has: what shapes alone do not tell."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.helpers.tracing import Written, conv, detected, graph_of, image, tokens

META = {"device": "meta"}


def test_strided_layers_resample_and_others_do_not() -> None:
    graph = graph_of(Written(lambda m, x: m.down(m.same(x)), same=conv(), down=conv(stride=2)), (image(),))
    assert [graph.nodes[node]["positions"] for node in ("args.0", "same", "down")] == [256, 256, 64]
    assert [graph.nodes[node]["resamples"] for node in ("same", "down")] == [False, True]


def test_channels_last_views_keep_their_positions() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        return m.linear(m.norm(m.conv(x).permute(0, 2, 3, 1)))

    members = {"conv": conv(), "norm": nn.LayerNorm(8, **META), "linear": nn.Linear(8, 32, **META)}
    graph = graph_of(Written(forward, **members), (image(),))
    assert {graph.nodes[node]["positions"] for node in ("conv", "permute", "norm", "linear")} == {256}
    assert not any(graph.nodes[node]["resamples"] for node in graph)


def test_windows_are_space() -> None:
    """(N, H, W, C) -> (N · windows, 4 · 4, C) -> attention -> back."""

    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.conv(x).permute(0, 2, 3, 1)
        windows = x.view(2, 4, 4, 4, 4, 8).permute(0, 1, 3, 2, 4, 5).reshape(32, 16, 8)
        mixed = F.scaled_dot_product_attention(windows, windows, windows)
        return m.linear(mixed.view(2, 4, 4, 4, 4, 8).permute(0, 1, 3, 2, 4, 5).reshape(2, 16, 16, 8)) + x

    graph = detected(Written(forward, conv=conv(), linear=nn.Linear(8, 8, **META)), (image(),))
    assert {graph.nodes[node]["positions"] for node in graph if graph.nodes[node]["live"]} == {256}
    assert [(skip.source, skip.span) for skip in graph.skips] == [("permute", "short")]


def test_heads_are_features() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        q, k, v = m.qkv(x).view(2, 16, 3, 2, 4).permute(2, 0, 3, 1, 4)
        mixed = ((q @ k.transpose(-2, -1)).softmax(-1) @ v).transpose(1, 2).reshape(2, 16, 8)
        return x + m.out(mixed)

    members = {"qkv": nn.Linear(8, 24, **META), "out": nn.Linear(8, 8, **META)}
    graph = detected(Written(forward, **members), (tokens(),))
    assert graph.nodes["out"]["positions"] == graph.nodes["args.0"]["positions"] == 16
    assert [(skip.source, skip.kind) for skip in graph.skips] == [("args.0", "add")]


def test_tokens_of_an_image_are_its_positions() -> None:
    graph = graph_of(
        Written(
            lambda m, x: m.linear(m.patch(x).flatten(2).transpose(1, 2)),
            patch=conv(stride=4),
            linear=nn.Linear(8, 8, **META),
        ),
        (image(),),
    )
    assert graph.nodes["linear"]["positions"] == 16
    assert graph.nodes["patch"]["resamples"]


def test_pixel_shuffle_and_interpolation_resample() -> None:
    graph = graph_of(Written(lambda m, x: F.pixel_shuffle(m.conv(x), 2), conv=conv()), (image(),))
    assert (graph.nodes["pixel_shuffle"]["positions"], graph.nodes["pixel_shuffle"]["resamples"]) == (1024, True)


def test_padding_keeps_the_resolution_of_its_operand() -> None:
    graph = graph_of(Written(lambda m, x: m.conv(F.pad(x, (9, 9, 9, 9))), conv=conv()), (image(),))
    assert graph.nodes["constant_pad_nd"]["positions"] == 256
    assert not graph.nodes["constant_pad_nd"]["resamples"]


def test_a_class_token_and_a_crop_are_no_resampling() -> None:
    graph = graph_of(Written(lambda m, x: m.conv(x[:, :, 1:-1, 1:-1]), conv=conv()), (image(),))
    assert not any(graph.nodes[node]["resamples"] for node in graph)


def test_strided_slices_resample() -> None:
    graph = graph_of(Written(lambda m, x: m.conv(x)[:, :, ::2], conv=conv()), (image(),))
    assert [data["slice"] for _, data in graph.nodes(data=True) if data["slice"] and data["slice"][2] == 2] == [
        (0, 16, 2)
    ]
    assert any(graph.nodes[node]["resamples"] for node in graph)


@pytest.mark.parametrize(("axis", "role"), [(0, "batch"), (1, "feature"), (2, "space"), (-1, "space")])
def test_role_of_a_concat(axis: int, role: str) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.conv(x)
        return torch.cat([h, h], axis)

    graph = graph_of(Written(forward, conv=conv()), (image(),))
    assert graph.nodes["cat"]["axis_role"] == role
    assert graph.nodes["cat"]["axis"] == axis % 4


def test_slices_tell_their_range() -> None:
    def forward(m: Any, x: Tensor) -> list[Tensor]:
        return [*torch.split(x, [3, 5], 1), x[:, 2:6], x.select(1, 7)]

    graph = graph_of(Written(forward), (image(),))
    slices = [data["slice"] for _, data in graph.nodes(data=True) if data["kind"] == "slice" and data["axis"] == 1]
    assert slices == [(0, 3, 1), (3, 8, 1), (2, 6, 1), (7, 8, 1)]


def test_views_of_no_elements_have_axes() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        nothing = x[:, :0].reshape(2, 0, 4, 4).flatten(1)
        return m.linear(torch.cat([x, nothing], 1)) + x

    graph = graph_of(Written(forward, linear=nn.Linear(16, 16, **META)), (torch.empty(2, 16, **META),))
    assert "linear" in graph
