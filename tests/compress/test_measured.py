"""Relative errors of outputs of every shape."""

from __future__ import annotations

import pytest
import torch

from skipgraph.compress.measured import Error, OutputError

TRUE = torch.randn(64, 5, generator=torch.Generator().manual_seed(0)) + torch.arange(5) * 10.0
OURS = TRUE + 0.1 * torch.randn(64, 5, generator=torch.Generator().manual_seed(1))


def closed_form(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).norm() / (theirs - theirs.mean(0)).norm())


@pytest.mark.parametrize("sizes", [(64,), (30, 33, 1), (1,) * 64])
def test_batches_of_any_size_give_the_same(sizes: tuple[int, ...]) -> None:
    error = Error()
    for ours, theirs in zip(OURS.split(sizes), TRUE.split(sizes), strict=True):
        error.add(ours, theirs)
    assert error.value == pytest.approx(closed_form(OURS, TRUE), rel=1e-5)


def test_numbers_without_channels_are_one_channel() -> None:
    error = Error()
    for ours, theirs in zip(OURS[:, 0].split((40, 24)), TRUE[:, 0].split((40, 24)), strict=True):
        error.add(ours, theirs)
    assert error.value == pytest.approx(closed_form(OURS[:, :1], TRUE[:, :1]), rel=1e-5)


def test_one_number_a_channel_is_measured_against_its_size() -> None:
    error = Error()
    error.add(OURS[:1], TRUE[:1])
    assert error.value == pytest.approx(float((OURS[:1] - TRUE[:1]).norm() / TRUE[:1].norm()), rel=1e-5)
    nothing = Error()
    nothing.add(torch.ones(3, 2), torch.zeros(3, 2))
    assert nothing.value == float("inf")
    assert Error().value == 0


def test_sizes_may_vary_along_an_axis() -> None:
    error = Error(axis=1)
    for count in (3, 5):
        error.add(torch.ones(2, count, 4), torch.arange(8.0 * count).reshape(2, count, 4))
    assert 0 < error.value < float("inf")


def test_masked_numbers_do_not_count() -> None:
    masked = TRUE.clone()
    masked[:, 2] = -torch.inf
    error = Error()
    error.add(torch.where(masked.isinf(), masked, OURS), masked)
    assert 0 < error.value < 1


def test_each_output_counts_alike() -> None:
    """Whatever its channels and its scale."""
    both, (one, other) = OutputError(), (Error(), Error())
    pairs = (OURS, TRUE), (1000 * OURS[:, :3], 1000 * TRUE[:, :3])
    both.add([ours for ours, _ in pairs], [theirs for _, theirs in pairs])
    one.add(*pairs[0])
    other.add(*pairs[1])
    assert both.value == pytest.approx(((one.value**2 + other.value**2) / 2) ** 0.5)
