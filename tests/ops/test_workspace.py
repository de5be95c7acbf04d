"""What kernels allocate for themselves, by the allocator's own events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.allocator import memory_events
from skipgraph.capture import capture
from skipgraph.ops import facts_of
from tests.helpers.tracing import Written

if TYPE_CHECKING:
    from collections.abc import Callable


def measured(run: Callable[[], torch.Tensor]) -> int:
    """The most bytes allocated while a function runs, besides its result."""
    with torch.no_grad():
        result = run().untyped_storage().nbytes()
        total = most = 0
        for _, change in memory_events(run):
            total += change
            most = max(most, total)
    return most - result


def predicted(function: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> int:
    """What the rules say of the operators that a function dispatches to."""
    program = capture(Written(lambda self, *args: function(*args)), inputs)
    total = 0
    for operator in program.operators:
        rule = facts_of(operator.name).workspace
        total += (rule(operator) or 0) if rule is not None else 0
    return total


CONVOLUTIONS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "first layer": ((1, 3, 96, 96), {"out_channels": 32, "kernel_size": 7, "stride": 2, "padding": 3}),
    "blocked": ((1, 32, 40, 40), {"out_channels": 64, "kernel_size": 3, "padding": 1}),
    "odd channels": ((1, 18, 48, 48), {"out_channels": 36, "kernel_size": 3, "stride": 2, "padding": 1}),
    "strided pointwise": ((1, 64, 40, 40), {"out_channels": 128, "kernel_size": 1, "stride": 2}),
    "batch of pointwise": ((4, 64, 20, 20), {"out_channels": 32, "kernel_size": 1}),
    "depthwise": ((1, 96, 30, 30), {"out_channels": 96, "kernel_size": 3, "padding": 1, "groups": 96}),
    "groups": ((1, 64, 30, 30), {"out_channels": 128, "kernel_size": 3, "padding": 1, "groups": 4}),
    "dilated": ((1, 32, 40, 40), {"out_channels": 32, "kernel_size": 3, "padding": 2, "dilation": 2}),
    "small": ((1, 16, 12, 12), {"out_channels": 24, "kernel_size": 3, "padding": 1}),
    "large kernel": ((2, 3, 64, 64), {"out_channels": 64, "kernel_size": 8, "stride": 8}),
}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name: str, threads: int) -> None:
    shape, options = CONVOLUTIONS[name]
    layer, image = nn.Conv2d(shape[1], **options), torch.randn(shape)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert predicted(layer, image) == pytest.approx(measured(lambda: layer(image)), rel=0.01)
    finally:
        torch.set_num_threads(before)


def test_channels_last_images_are_not_copied() -> None:
    layer = nn.Conv2d(32, 64, 3, padding=1)
    image = torch.randn(1, 32, 40, 40).contiguous(memory_format=torch.channels_last)
    assert predicted(layer, image) == 2 * layer.weight.nbytes
    assert predicted(layer, image) == pytest.approx(measured(lambda: layer(image)), rel=0.1)


@pytest.mark.parametrize(("size", "copies"), [(16, True), (64, False)])
def test_small_images_are_upsampled_in_another_order(size: int, copies: bool) -> None:
    image = torch.randn(1, 8, size, size)

    def upsampled(tensor: torch.Tensor) -> torch.Tensor:
        return F.interpolate(tensor, scale_factor=2, mode="bilinear")

    found = predicted(upsampled, image)
    assert found == (image.nbytes + 4 * image.nbytes if copies else 0)
    assert found == pytest.approx(measured(lambda: upsampled(image)), abs=10_000)


@pytest.mark.parametrize("name", ["layer_norm", "softmax"])
def test_some_kernels_copy_what_is_not_dense(name: str) -> None:
    function = {"layer_norm": lambda x: F.layer_norm(x, (40,)), "softmax": lambda x: x.softmax(-1)}[name]
    strided = torch.randn(8, 40, 50).transpose(1, 2)
    assert predicted(function, strided) == strided.nbytes
    assert measured(lambda: function(strided)) == pytest.approx(strided.nbytes, rel=0.05)
    assert predicted(function, strided.contiguous()) == 0


@pytest.mark.parametrize("axes", [(1,), (1, 2)])
def test_rolling_goes_axis_by_axis(axes: tuple[int, ...]) -> None:
    tensor = torch.randn(8, 40, 50)

    def rolled(x: torch.Tensor) -> torch.Tensor:
        return x.roll((3,) * len(axes), axes)

    assert predicted(rolled, tensor) == measured(lambda: rolled(tensor)) == (len(axes) - 1) * tensor.nbytes
