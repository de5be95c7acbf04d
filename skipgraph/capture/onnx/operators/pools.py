"""Pooling, reductions, softmax, resampling."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional as F

from skipgraph.capture.onnx.at import At, Operand, UnsupportedError, converts, integers
from skipgraph.capture.onnx.operators.layers import padded, windows

_MAX_POOLS: dict[int, Any] = {1: torch.max_pool1d, 2: torch.max_pool2d, 3: torch.max_pool3d}
_MEAN_POOLS: dict[int, Any] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_TO_ONE: dict[int, Any] = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}
_INTERPOLATIONS = {
    ("linear", 1): "linear",
    ("linear", 2): "bilinear",
    ("linear", 3): "trilinear",
    ("cubic", 2): "bicubic",
}


def _pooled_axes(at: At, pools: dict[int, Any]) -> int:
    axes = at.rank(at[0]) - 2
    if axes not in pools:
        raise UnsupportedError(f"it pools over {axes} axes")
    return axes


@converts("MaxPool")
def max_pool(at: At) -> Any:
    """Over a window."""
    if at.is_read(1):
        raise UnsupportedError("its indices are read")
    axes, kernel = _pooled_axes(at, _MAX_POOLS), integers(at.attribute("kernel_shape"))
    strides, dilations, pads = windows(at, at[0], kernel)
    ceiling = bool(at.attribute("ceil_mode", 0))
    if ceiling and any(before != behind for before, behind in pads):
        pads, ceiling = _whole_windows(at.shape(at[0])[2:], kernel, strides, dilations, pads), False
    dtype = at.dtype(at[0])
    x, padding = padded(at, at[0], pads, -math.inf if dtype.is_floating_point else torch.iinfo(dtype).min)
    return at.call(_MAX_POOLS[axes], x, kernel, strides, padding, dilations, ceiling)


def _whole_windows(
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[tuple[int, int]],
) -> list[tuple[int, int]]:
    """The padding with which just the windows of the ceiling mode fit: none that starts in the padding behind."""
    made = []
    for size, taps, stride, dilation, (before, behind) in zip(sizes, kernel, strides, dilations, pads, strict=True):
        width = (taps - 1) * dilation + 1
        count = math.ceil((size + before + behind - width) / stride) + 1
        count -= (count - 1) * stride >= size + before
        made.append((before, (count - 1) * stride + width - size - before))
    return made


@converts("AveragePool")
def mean_pool(at: At) -> Any:
    """Over a window, with or without what is padded."""
    axes, kernel = _pooled_axes(at, _MEAN_POOLS), integers(at.attribute("kernel_shape"))
    strides, dilations, pads = windows(at, at[0], kernel)
    counted = bool(at.attribute("count_include_pad", 0))
    if any(step != 1 for step in dilations):
        raise UnsupportedError("its window is dilated")
    if not counted and any(before != behind for before, behind in pads):
        raise UnsupportedError("it pads unlike on two sides, and does not count that")
    if at.attribute("ceil_mode", 0) and any(before != behind for before, behind in pads):
        raise UnsupportedError("it pads unlike on two sides, and counts windows up")
    x, padding = padded(at, at[0], pads)
    return at.call(_MEAN_POOLS[axes], x, kernel, strides, padding, bool(at.attribute("ceil_mode", 0)), counted)


@converts("GlobalAveragePool")
def global_mean(at: At) -> Any:
    """Over all positions."""
    return at.call(_TO_ONE[_pooled_axes(at, _TO_ONE)], at[0], 1)


@converts("GlobalMaxPool")
def global_max(at: At) -> Any:
    """Over all positions."""
    return at.call(torch.amax, at[0], list(range(2, at.rank(at[0]))), True)


def _square(at: At, x: Operand) -> Operand:
    return at.call(operator.mul, x, x)


_BEFORE: dict[str, Callable[[At, Operand], Operand]] = {
    "ReduceL1": lambda at, x: at.call(torch.abs, x),
    "ReduceL2": _square,
    "ReduceSumSquare": _square,
}
_REDUCTIONS: dict[str, Callable[..., Any]] = {
    "ReduceMean": torch.mean, "ReduceSum": torch.sum, "ReduceMax": torch.amax, "ReduceMin": torch.amin,
    "ReduceL1": torch.sum, "ReduceL2": torch.sum, "ReduceSumSquare": torch.sum, "ReduceLogSum": torch.sum,
    "ReduceLogSumExp": torch.logsumexp,
}  # fmt: skip
_AFTER: dict[str, Callable[..., Any]] = {"ReduceL2": torch.sqrt, "ReduceLogSum": torch.log}
_OF_FRACTIONS = ("ReduceMean", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp")


@converts(*_REDUCTIONS)
def reduced(at: At) -> Any:
    """Over axes: what is done to each number is done where none is reduced, too."""
    x, name, axes = at[0], at.node.op_type, _reduced_axes(at)
    dtype = at.dtype(x)
    if name in _OF_FRACTIONS and not dtype.is_floating_point:
        raise UnsupportedError("its operand is of integers")
    if name in _BEFORE:
        x = _BEFORE[name](at, x)
    if axes:
        x = at.call(_REDUCTIONS[name], x, axes, bool(at.attribute("keepdims", 1)))
    x = at.call(_AFTER[name], x) if name in _AFTER else x
    return x if at.dtype(x) is dtype else at.method("to", x, dtype)


def _reduced_axes(at: At) -> list[int]:
    """All where none is given, unless ``noop_with_empty_axes`` says that none is reduced then."""
    axes = at.listed("axes", 1)
    if not axes and not at.attribute("noop_with_empty_axes", 0):
        return list(range(at.rank(at[0])))
    return integers(axes or [])


@converts("ReduceProd")
def product(at: At) -> Any:
    """Over axes, one after another."""
    x = at[0]
    dtype = at.dtype(x)
    for axis in sorted((at.axis(x, axis) for axis in _reduced_axes(at)), reverse=True):
        x = at.call(torch.prod, x, axis, bool(at.attribute("keepdims", 1)))
    return x if at.dtype(x) is dtype else at.method("to", x, dtype)


@converts("ArgMax", "ArgMin")
def extreme_place(at: At) -> Any:
    """The place of the largest or smallest number along an axis."""
    if at.attribute("select_last_index", 0):
        raise UnsupportedError("of equal numbers it takes the last")
    function = torch.argmax if at.node.op_type == "ArgMax" else torch.argmin
    return at.call(function, at[0], at.attribute("axis", 0), bool(at.attribute("keepdims", 1)))


@converts("Softmax", "LogSoftmax")
def softmax(at: At) -> Any:
    """Along an axis; before operator set 13, over all axes from there on together."""
    x, function = at[0], torch.softmax if at.node.op_type == "Softmax" else torch.log_softmax
    if at.version >= 13:
        return at.call(function, x, at.attribute("axis", -1))
    axis, sizes = at.axis(x, at.attribute("axis", 1)), at.shape(x)
    if math.prod(sizes[axis + 1 :]) == 1:
        return at.call(function, x, axis)
    flat = at.call(torch.reshape, x, [math.prod(sizes[:axis]), math.prod(sizes[axis:])])
    return at.call(torch.reshape, at.call(function, flat, 1), list(sizes))


@converts("Resize", "Upsample")
def resized(at: At) -> Any:
    """To sizes, or by scales."""
    x = at[0]
    old = at.node.op_type == "Upsample" or at.version < 11
    scales = at.attribute("scales") if len(at) < 2 else at.numbers(1 if old else 2)
    sizes = None if old else at.numbers(3)
    own, axes = at.shape(x), at.rank(x) - 2
    if at.attribute("axes") is not None or at.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise UnsupportedError("it names the axes that it resizes, or keeps their ratio")
    if sizes:
        if list(sizes[:2]) != list(own[:2]):
            raise UnsupportedError("it resizes channels")
        target: dict[str, Any] = {"size": integers(sizes[2:])}
    elif scales:
        if scales[:2] != [1.0, 1.0]:
            raise UnsupportedError("it resizes channels")
        target = {"scale_factor": [float(scale) for scale in scales[2:]]}
    else:
        raise UnsupportedError("it has neither sizes nor scales")
    return at.call(F.interpolate, x, **target, **_interpolation(at, axes, old))


def _interpolation(at: At, axes: int, old: bool) -> dict[str, Any]:
    mode = at.attribute("mode", "nearest")
    place = "asymmetric" if old else at.attribute("coordinate_transformation_mode", "half_pixel")
    if mode == "nearest":
        exact = place in ("half_pixel", "pytorch_half_pixel")
        return {"mode": "nearest-exact" if exact else "nearest"}
    name = _INTERPOLATIONS.get((mode, axes))
    if name is None:
        raise UnsupportedError(f"it interpolates by {mode} over {axes} axes")
    if place not in ("half_pixel", "pytorch_half_pixel", "align_corners"):
        raise UnsupportedError(f"its coordinates are {place}")
    if mode == "cubic" and abs(at.attribute("cubic_coeff_a", -0.75) + 0.75) > 1e-6:
        raise UnsupportedError("its cubic is another one than PyTorch's")
    return {
        "mode": name, "align_corners": place == "align_corners", "antialias": bool(at.attribute("antialias", 0)),
    }  # fmt: skip


@converts("DepthToSpace")
def depth_to_space(at: At) -> Any:
    """Channels become positions, in either of two orders."""
    x, block = at[0], at.attribute("blocksize")
    if at.attribute("mode", "DCR") == "CRD":
        return at.call(torch.pixel_shuffle, x, block)
    batch, channels, height, width = at.shape(x)
    less = channels // block**2
    return _regrouped(
        at, x, [batch, block, block, less, height, width], [0, 3, 4, 1, 5, 2],
        [batch, less, height * block, width * block],
    )  # fmt: skip


@converts("SpaceToDepth")
def space_to_depth(at: At) -> Any:
    """Positions become channels, those of one place in the block together."""
    x, block = at[0], at.attribute("blocksize")
    batch, channels, height, width = at.shape(x)
    rows, columns = height // block, width // block
    return _regrouped(
        at, x, [batch, channels, rows, block, columns, block], [0, 3, 5, 1, 2, 4],
        [batch, channels * block**2, rows, columns],
    )  # fmt: skip


def _regrouped(at: At, x: Operand, split: Sequence[int], order: Sequence[int], joined: Sequence[int]) -> Operand:
    apart = at.call(torch.reshape, x, [-1, *split[1:]])
    return at.call(torch.reshape, at.call(torch.permute, apart, list(order)), [-1, *joined[1:]])


@converts("GridSample")
def sampled(at: At) -> Any:
    """At computed positions."""
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(
        at.attribute("mode", "linear"), at.attribute("mode", "linear")
    )
    options = at.attribute("padding_mode", "zeros"), bool(at.attribute("align_corners", 0))
    return at.call(F.grid_sample, at[0], at[1], mode, *options)
