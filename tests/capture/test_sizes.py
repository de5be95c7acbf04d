"""Captured graphs at sizes that were not traced: the same result, or an assertion; never another result."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipgraph.capture.runnable import Captured, runnable

SIZES = [(1, 96, 64), (2, 64, 96), (3, 48, 80), (1, 33, 50), (1, 400, 300), (1, 16, 16)]


class Model(nn.Module):
    """A convolution, and then a function of its result and the other inputs."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.convolution = nn.Conv2d(3, 4, 3, padding=1)
        self.function = function

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        return self.function(self.convolution(x), *others)


def image(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def runs(captured: Captured, model: nn.Module, *inputs: Tensor) -> bool:
    """Whether the captured graph gives the model's result; False where it asserts. Anything else fails."""
    try:
        ours = captured(*inputs)
    except AssertionError as error:
        if "captured for" not in str(error) or "size" not in str(error):
            raise
        return False
    assert torch.equal(ours, model(*inputs))
    return True


def heights_and_widths(function: Callable[[Tensor], Tensor], size: tuple[int, int] = (64, 64)) -> list[bool]:
    """At which of ``SIZES`` the captured graph runs."""
    model = Model(function)
    captured = runnable(model, (image(1, 3, *size),))
    assert runs(captured, model, image(1, 3, *size))
    assert runs(captured, model, image(3, 3, *size))
    return [runs(captured, model, image(batch, 3, height, width)) for batch, height, width in SIZES]


# -- carried over everywhere -----------------------------------------------------------------------------------------


def tokens(x: Tensor) -> Tensor:
    batch, channels, height, width = x.shape
    tokens = x.flatten(2).transpose(1, 2)
    tokens = torch.cat([tokens.new_zeros(batch, 1, channels), tokens], 1) * (tokens.shape[1] ** -0.5)
    mean = tokens.mean(1, keepdim=True).expand(batch, height * width, channels)
    return (tokens[:, 1:] + mean).transpose(1, 2).reshape(batch, channels, height, width)


def crop(x: Tensor) -> Tensor:
    small = F.conv2d(F.avg_pool2d(x, 2), torch.ones(4, 1, 3, 3, device=x.device), groups=4)
    height, width = small.shape[2:]
    top, left = (x.shape[2] - height) // 2, (x.shape[3] - width) // 2
    return x[:, :, top : top + height, left : left + width] + small


def windows(x: Tensor) -> Tensor:
    """Padded to whole windows, always."""
    batch, channels, height, width = x.shape
    x = F.pad(x, (0, -width % 4, 0, (4 - height % 4) % 4))
    x = x.view(batch, channels, math.ceil(height / 4), 4, (width + 3) // 4, 4).mean((3, 5))
    return F.interpolate(x, size=(height, width))


def positions(x: Tensor) -> Tensor:
    height, width = x.shape[-2:]
    y = torch.arange(height, device=x.device, dtype=x.dtype)[:, None] / height
    return x + y + torch.linspace(-1, 1, width, device=x.device) + torch.full((len(x), 1, 1, 1), float(height)).to(x)


def own_pooling(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, (x.shape[2] // 4, x.shape[3] // 4)) / (x.numel() / x.shape[0])


@pytest.mark.parametrize("function", [tokens, crop, windows, positions, own_pooling])
def test_carried_over_to_every_size(function: Callable[[Tensor], Tensor]) -> None:
    assert all(heights_and_widths(function))


def test_height_and_width_are_told_apart() -> None:
    assert all(heights_and_widths(tokens, (64, 48)))


# -- carried over as far as the way stays the same -------------------------------------------------------------------


def large_images_differ(x: Tensor) -> Tensor:
    return x * 2 if x.shape[-1] > 200 else x


def at_least_eight(x: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(x, (max(x.shape[2] // 4, 8), min(x.shape[3], 4)))


def padded_if_need_be(x: Tensor) -> Tensor:
    height, width = x.shape[2:]
    down, right = -height % 16, (16 - width % 16) % 16
    if down or right:
        x = F.pad(x, (0, right, 0, down))
    return F.interpolate(F.avg_pool2d(x, 2), scale_factor=2)[:, :, :height, :width]


def mended_if_need_be(x: Tensor) -> Tensor:
    y = F.interpolate(F.max_pool2d(x, 2), scale_factor=2)
    if y.shape != x.shape:
        y = F.interpolate(y, size=x.shape[2:])
    return x + y


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (large_images_differ, [True, True, True, True, False, True]),
        (at_least_eight, [True, True, True, True, True, False]),
        (padded_if_need_be, [True, True, True, False, False, True]),
        (mended_if_need_be, [True, True, True, False, True, True]),
    ],
)
def test_carried_over_where_comparisons_come_out_the_same(
    function: Callable[[Tensor], Tensor], expected: list[bool]
) -> None:
    assert heights_and_widths(function) == expected


def test_the_models_own_assertions_are_kept() -> None:
    def multiples(x: Tensor) -> Tensor:
        assert x.shape[2] % 32 == 0
        return x

    model = Model(multiples)
    captured = runnable(model, (image(1, 3, 64, 64),))
    assert runs(captured, model, image(1, 3, 96, 40))
    with pytest.raises(AssertionError, match=r"captured for \(convolution.size\(2\) % 32\) == 0"):
        captured(image(1, 3, 48, 64))


# -- asserted --------------------------------------------------------------------------------------------------------


def repeated_pooling(x: Tensor) -> Tensor:
    while x.shape[-1] > 8:
        x = F.avg_pool2d(x, 2)
    return x


def python_table(x: Tensor) -> Tensor:
    return x + torch.tensor([float(place) for place in range(x.shape[-1])], device=x.device)


def numpy_scale(x: Tensor) -> Tensor:
    return x * torch.from_numpy(numpy.linspace(0, 1, 5) * x.shape[3]).to(x).mean()


@pytest.mark.parametrize("function", [repeated_pooling, python_table, numpy_scale])
def test_a_width_that_cannot_be_carried_over_is_asserted(function: Callable[[Tensor], Tensor]) -> None:
    assert heights_and_widths(function) == [width == 64 for _, _, width in SIZES]
    captured = runnable(Model(function), (image(1, 3, 64, 64),))
    with pytest.raises(AssertionError, match=r"captured for x.size\(3\) == 64, and other sizes cannot be carried over"):
        captured(image(1, 3, 64, 72))


def test_squares_alone() -> None:
    def square(x: Tensor) -> Tensor:
        side = int(math.sqrt(x.flatten(2).shape[2]))
        return x.flatten(2).reshape(x.shape[0], x.shape[1], side, side)

    assert heights_and_widths(square) == [False, False, False, False, False, True]


# -- several inputs, and the batch -----------------------------------------------------------------------------------


def test_sizes_of_two_inputs_are_told_apart() -> None:
    model = Model(lambda x, y: x + F.interpolate(y, size=x.shape[2:]).mean(1, keepdim=True))
    captured = runnable(model, (image(1, 3, 64, 64), image(1, 3, 64, 64)))
    assert runs(captured, model, image(2, 3, 96, 64), image(2, 3, 48, 40))
    assert runs(captured, model, image(2, 3, 96, 64), image(1, 3, 48, 40))


def test_sizes_of_two_inputs_that_go_together_are_asserted_to() -> None:
    model = Model(lambda x, y: x + y.mean(1, keepdim=True))
    captured = runnable(model, (image(2, 3, 64, 64), image(2, 3, 64, 64)))
    assert runs(captured, model, image(3, 3, 48, 64), image(3, 3, 48, 64))
    assert not runs(captured, model, image(3, 3, 48, 64), image(3, 3, 1, 64))


def test_a_batch_of_whole_clips() -> None:
    model = Model(lambda x: x.view(-1, 4, *x.shape[1:]).mean(1))
    captured = runnable(model, (image(8, 3, 8, 8),))
    assert runs(captured, model, image(4, 3, 8, 8))
    assert runs(captured, model, image(20, 3, 9, 8))


def test_a_batch_that_decides_the_calls_is_asserted() -> None:
    model = Model(lambda x: torch.cat([one * 2 for one in x]))
    captured = runnable(model, (image(2, 3, 8, 8),))
    assert runs(captured, model, image(2, 3, 12, 8))
    assert not runs(captured, model, image(3, 3, 8, 8))


def test_a_size_that_only_training_depends_on() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            side = x.shape[2] // 4 if self.training else 16
            return F.adaptive_avg_pool2d(self.layer(x), side)

    model = Model()
    captured = runnable(model, (image(1, 3, 64, 64),))
    for training in (False, True):
        captured.train(training)
        model.train(training)
        assert runs(captured, model, image(2, 3, 96, 64))
