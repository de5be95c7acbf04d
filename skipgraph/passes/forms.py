"""Functions that rewritten models call: plain PyTorch, printed into the emitted source as they stand here.

Each of them needs nothing but torch and what is imported below.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F


def identity_kernel(channels: int, kernel: list[int], like: torch.Tensor) -> torch.Tensor:
    """Return the weight W of a layer that computes W·x = x, of shape (channels, channels, *kernel).

    ``kernel`` is empty for a linear layer; in a convolution the one stands at the tap in the middle.
    """
    weight = torch.eye(channels, dtype=like.dtype, device=like.device).reshape(channels, channels, *[1] * len(kernel))
    margins = [margin for size in reversed(kernel) for margin in ((size - 1) // 2, size // 2)]
    return F.pad(weight, margins) if margins else weight


def places_within(index: torch.Tensor, start: int, width: int) -> torch.Tensor:
    """Return where an operand of ``width`` channels has those that ``index`` names, if its first is number ``start``.

    Those of other operands are said to be at ``width``.
    """
    return torch.remainder(torch.clamp(torch.sub(index, start), -1, width), width + 1)


def selected(x: torch.Tensor, axis: int, places: torch.Tensor) -> torch.Tensor:
    """Return the channels of x at ``places`` along ``axis``; the one behind the last is zero."""
    return torch.index_select(F.pad(x, [0, 0] * (x.dim() - 1 - axis) + [0, 1]), axis, places)


def folded_weight(weight: torch.Tensor, norm: Any) -> torch.Tensor:
    """Return the weight of a convolution with the batch norm behind it, in evaluation: γ/√(σ² + ε)·W."""
    return weight * _scale(norm).reshape(-1, *[1] * (weight.dim() - 1))


def folded_bias(bias: torch.Tensor | None, norm: Any) -> torch.Tensor:
    """Return the bias of a convolution with the batch norm behind it, in evaluation: β + γ/√(σ² + ε)·(b − μ)."""
    scale = _scale(norm)
    shift: torch.Tensor = (-norm.running_mean if bias is None else bias - norm.running_mean) * scale
    return shift if norm.bias is None else shift + norm.bias


def _scale(norm: Any) -> torch.Tensor:
    inverse = torch.rsqrt(norm.running_var + norm.eps)
    scale: torch.Tensor = inverse if norm.weight is None else inverse * norm.weight
    return scale


def add_in_bands(total: torch.Tensor, x: torch.Tensor, convolution: Any, rows: int) -> torch.Tensor:
    """Add a convolution of x to ``total``, in place, ``rows`` rows of the result at a time.

    The result of the convolution is never held as a whole. For inference: autograd cannot follow it.
    """
    height = x.shape[2]
    for first in range(0, total.shape[2], rows):
        last = min(first + rows, total.shape[2])
        start, stop = rows_read(convolution, first, last)
        band = x[:, :, max(start, 0) : min(stop, height)]
        add_band(total, band, convolution, first, last, max(-start, 0), max(stop - height, 0))
    return total


def add_upsampled_in_bands(
    total: torch.Tensor, x: torch.Tensor, upsampling: Any, convolution: Any, rows: int
) -> torch.Tensor:
    """Add a convolution of an upsampled x to ``total``, in place, ``rows`` rows of the result at a time.

    ``upsampling`` is a transposed convolution whose stride is its kernel, so that each row of x makes rows of its own;
    those that two bands read are made twice. Neither result is ever held as a whole. For inference.
    """
    scale = upsampling.stride[0]
    height = x.shape[2] * scale
    for first in range(0, total.shape[2], rows):
        last = min(first + rows, total.shape[2])
        start, stop = rows_read(convolution, first, last)
        top, bottom = max(start, 0), min(stop, height)
        source = x[:, :, top // scale : -(-bottom // scale)]
        band = upsampling(source)[:, :, top % scale : top % scale + bottom - top]
        add_band(total, band, convolution, first, last, max(-start, 0), max(stop - height, 0))
    return total


def rows_read(convolution: Any, first: int, last: int) -> tuple[int, int]:
    """Return which rows of its input the rows from ``first`` to before ``last`` of a convolution's result need."""
    stride, padding = convolution.stride[0], convolution.padding[0]
    reach = convolution.dilation[0] * (convolution.kernel_size[0] - 1) + 1
    return first * stride - padding, (last - 1) * stride - padding + reach


def add_band(
    total: torch.Tensor, band: torch.Tensor, convolution: Any, first: int, last: int, above: int, below: int
) -> None:
    """Add the convolution of a band, with rows of zeros ``above`` and ``below`` it, to rows of ``total``."""
    if above or below:
        band = F.pad(band, (0, 0, above, below))
    total[:, :, first:last] += F.conv2d(
        band,
        convolution.weight,
        convolution.bias,
        convolution.stride,
        (0, convolution.padding[1]),
        convolution.dilation,
        convolution.groups,
    )
