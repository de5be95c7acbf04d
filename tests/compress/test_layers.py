"""Layers as weights, the pairs that stand for them, and what they read."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from skipgraph.compress.factor import Form, factored, full_rank
from skipgraph.compress.layers import pair, patches, positions, weight_of
from skipgraph.compress.moments import Running, gathered, shrunk

LAYERS: list[tuple[nn.Module, tuple[int, ...]]] = [
    (nn.Linear(5, 7), (3, 4, 5)),
    (nn.Linear(6, 3, bias=False), (4, 6)),
    (nn.Conv1d(4, 6, 3, padding=1), (2, 4, 9)),
    (nn.Conv2d(4, 6, 3, stride=2, padding=1), (2, 4, 9, 8)),
    (nn.Conv2d(4, 6, (3, 1), padding="same", dilation=2, padding_mode="reflect"), (2, 4, 9, 8)),
    (nn.Conv3d(3, 4, (1, 2, 3), padding=(0, 1, 1), bias=False), (2, 3, 4, 5, 6)),
    (nn.ConvTranspose1d(4, 5, 4, stride=2, padding=1), (2, 4, 6)),
    (nn.ConvTranspose2d(4, 5, 2, stride=2), (2, 4, 6, 5)),
    (nn.ConvTranspose3d(3, 4, 3, output_padding=1, stride=2), (1, 3, 3, 3, 3)),
]
EVERY = pytest.mark.parametrize("case", LAYERS, ids=lambda case: str(case[0]))


@EVERY
@pytest.mark.parametrize("form", ["project", "restore"])
def test_a_pair_of_full_rank_is_the_layer(case: tuple[Any, tuple[int, ...]], form: Form) -> None:
    layer, shape = copy.deepcopy(case[0]).double(), case[1]
    weight = weight_of(layer)
    bias = None if layer.bias is None else layer.bias.detach().numpy()
    made = pair(layer, factored(weight, full_rank(weight, form), form), bias)
    x = torch.randn(shape, dtype=torch.float64)
    torch.testing.assert_close(made(x), layer(x))
    assert (made.restore.bias is None) == (layer.bias is None)


@EVERY
def test_patches_are_what_the_weight_meets(case: tuple[Any, tuple[int, ...]]) -> None:
    layer, shape = copy.deepcopy(case[0]).double(), case[1]
    if "Transpose" in type(layer).__name__:
        pytest.skip("transposed layers have no patches")
    x = torch.randn(shape, dtype=torch.float64)
    wanted = positions(layer, layer(x))
    weight = torch.from_numpy(weight_of(layer)).flatten(1)
    made = patches(layer, x) @ weight.T + (0 if layer.bias is None else layer.bias)
    torch.testing.assert_close(made, wanted)
    chosen = torch.tensor([1, 0])
    torch.testing.assert_close(patches(layer, x, chosen), patches(layer, x)[chosen])


@EVERY
def test_the_error_and_the_offset_are_those_of_the_data(case: tuple[Any, tuple[int, ...]]) -> None:
    layer, shape = copy.deepcopy(case[0]).double(), case[1]
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(shape[1], shape[1], generator=generator, dtype=torch.float64)
    axis = len(shape) - 1 if isinstance(layer, nn.Linear) else 1

    def correlated() -> torch.Tensor:
        x = torch.randn(64, *shape[1:], generator=generator, dtype=torch.float64) + 0.5
        width = x.shape[axis]
        return (x.movedim(axis, -1) @ mix[:width, :width]).movedim(-1, axis) if width <= len(mix) else x

    data = [((correlated(),), {}) for _ in range(4)]
    model = nn.Sequential(layer)
    seen = gathered(model, ["0"], data, lambda one, batch: one(*batch[0]))["0"]
    weight = weight_of(layer)
    moments = seen.moments(weight)
    rank = max(1, full_rank(weight, "restore") // 2)
    factors = factored(weight, rank, "restore", moments)
    bias = seen.offset(weight, factors.product()) + (0 if layer.bias is None else layer.bias.detach().numpy())
    made = pair(layer, factors, bias)
    ours = torch.cat([positions(layer, made(batch[0][0])) for batch in data])
    theirs = torch.cat([positions(layer, layer(batch[0][0])) for batch in data])
    off = (ours - theirs).square().sum() / (theirs - theirs.mean(0)).square().sum()
    assert off.sqrt().item() == pytest.approx(factors.error, rel=0.1, abs=1e-3)
    if "Transpose" not in type(layer).__name__:
        torch.testing.assert_close(ours.mean(0), theirs.mean(0), rtol=1e-2, atol=2e-2)


def test_running_moments_are_those_of_all_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(500, 4, generator=generator, dtype=torch.float64) * 3 + 100
    other = rows[:, :2] + torch.randn(500, 2, generator=generator, dtype=torch.float64)
    one, both = Running(4), Running(4, 2)
    for part, beside in zip(rows.split([1, 99, 400]), other.split([1, 99, 400]), strict=True):
        one.add(part)
        both.add(part, beside)
    np.testing.assert_allclose(one.mean, rows.mean(0).numpy())
    np.testing.assert_allclose(one.covariance, np.cov(rows.T.numpy(), bias=True))
    joint = np.cov(torch.cat([rows, other], 1).T.numpy(), bias=True)
    np.testing.assert_allclose(both.covariance, joint[:4, 4:])


def test_few_rows_are_drawn_towards_white_noise_and_many_are_not() -> None:
    generator = np.random.default_rng(0)
    true = np.diag([3.0, 2.0, 1.5, 1.0, 1.0, 0.8, 0.6, 0.5])

    def off(count: int, *, drawn_in: bool) -> float:
        rows = generator.normal(size=(count, 8)) @ np.sqrt(true)
        covariance = np.cov(rows.T, bias=True)
        return float(np.linalg.norm((shrunk(covariance, count) if drawn_in else covariance) - true))

    few = np.mean([[off(6, drawn_in=True), off(6, drawn_in=False)] for _ in range(200)], axis=0)
    assert few[0] < few[1]
    rows = generator.normal(size=(100_000, 8)) @ np.sqrt(true)
    covariance = np.cov(rows.T, bias=True)
    np.testing.assert_allclose(shrunk(covariance, 100_000), covariance, atol=1e-3)
