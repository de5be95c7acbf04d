"""Linear layers as weights (out, in, taps), and the pairs of layers that stand in their place."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from skipgraph.compress.factor import Array, Factors, Form

CONVOLUTIONS: tuple[type[nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED: tuple[type[nn.Module], ...] = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_LINEAR = (*CONVOLUTIONS, *TRANSPOSED, nn.Linear)


def is_linear_layer(module: nn.Module) -> bool:
    """Whether a module is a layer of torch.nn itself that law 7 applies to: one that mixes all its channels."""
    return type(module) in _LINEAR and getattr(module, "groups", 1) == 1


def weight_of(module: Any) -> Array:
    """The weight of a layer as (out, in, taps), in float64."""
    weight = module.weight.detach().double().cpu()
    if type(module) in TRANSPOSED:
        weight = weight.transpose(0, 1)
    return np.ascontiguousarray(weight.reshape(*weight.shape[:2], -1).numpy())


def sizes(module: Any) -> tuple[int, int, int]:
    """Outputs, inputs and taps of a layer."""
    first, second = module.weight.shape[:2]
    out, channels = (second, first) if type(module) in TRANSPOSED else (first, second)
    return out, channels, math.prod(module.weight.shape[2:])


def pair(module: Any, factors: Factors, bias: Array | None) -> nn.Sequential:
    """Two layers in the place of one, with the given factors as weights, of the same dtype, device and mode."""
    made: Any = blank(module, factors.rank, factors.form, bias=bias is not None)
    for layer, weight in zip(made, (factors.first, factors.second), strict=True):
        _fill(layer, weight)
    if bias is not None:
        with torch.no_grad():
            made.restore.bias.copy_(torch.from_numpy(bias))
    for parameter in made.parameters():
        parameter.requires_grad_(module.weight.requires_grad)
    return made  # type: ignore[no-any-return]


def blank(module: Any, rank: int, form: Form, *, bias: bool = True) -> nn.Sequential:
    """The same with weights that mean nothing."""
    out, channels, _ = sizes(module)
    made = OrderedDict(
        project=alike(module, channels, rank, kernel=form == "restore", bias=False),
        restore=alike(module, rank, out, kernel=form == "project", bias=bias),
    )
    return nn.Sequential(made).train(module.training)


def alike(module: Any, channels: int, out: int, *, kernel: bool = True, bias: bool) -> Any:
    """A layer of the same kind with other channels, its weights at random; without the kernel it is one by one."""
    like: dict[str, Any] = {"bias": bias, "device": module.weight.device, "dtype": module.weight.dtype}
    if type(module) is nn.Linear:
        return nn.Linear(channels, out, **like)
    if not kernel:
        plain = CONVOLUTIONS[len(module.kernel_size) - 1]
        return plain(channels, out, 1, **like)
    names = ["kernel_size", "stride", "padding", "dilation", "padding_mode"]
    names += ["output_padding"] if type(module) in TRANSPOSED else []
    return type(module)(channels, out, **{name: getattr(module, name) for name in names}, **like)


def repeated(module: Any, count: int) -> Any:
    """The layer that reads ``count`` times as many channels, with the same weights for each: it adds them up."""
    out, channels, _ = sizes(module)
    made = alike(module, count * channels, out, bias=module.bias is not None)
    axis = 0 if type(module) in TRANSPOSED else 1
    with torch.no_grad():
        made.weight.copy_(torch.cat([module.weight] * count, axis))
        if module.bias is not None:
            made.bias.copy_(module.bias)
    for parameter in made.parameters():
        parameter.requires_grad_(module.weight.requires_grad)
    return made.train(module.training)


def _fill(layer: Any, weight: Array) -> None:
    tensor = torch.from_numpy(weight.copy())
    if type(layer) in TRANSPOSED:
        tensor = tensor.transpose(0, 1)
    with torch.no_grad():
        layer.weight.copy_(tensor.reshape(layer.weight.shape))


# -- what a layer reads ------------------------------------------------------------------------------------------------


def positions(module: Any, tensor: Tensor) -> Tensor:
    """A tensor that a layer reads or makes, as (positions, channels)."""
    if type(module) is nn.Linear:
        return tensor.reshape(-1, tensor.shape[-1])
    axis = tensor.dim() - len(module.kernel_size) - 1
    return tensor.movedim(axis, -1).reshape(-1, tensor.shape[axis])


def patches(module: Any, tensor: Tensor, chosen: Tensor | None = None) -> Tensor:
    """What a convolution reads for each output position, as (positions, in · taps), channels first.

    ``chosen`` are the numbers of the positions that are wanted.
    """
    if type(module) is nn.Linear:
        rows = positions(module, tensor)
        return rows if chosen is None else rows[chosen]
    rank = len(module.kernel_size)
    if tensor.dim() == rank + 1:
        tensor = tensor[None]
    padded = _padded(module, tensor)
    outputs = [
        (size - dilation * (kernel - 1) - 1) // stride + 1
        for size, kernel, stride, dilation in zip(
            padded.shape[2:], module.kernel_size, module.stride, module.dilation, strict=True
        )
    ]
    found = []
    for tap in np.ndindex(*module.kernel_size):
        window = padded
        for axis, (at, count) in enumerate(zip(tap, outputs, strict=True), 2):
            start, stride = at * module.dilation[axis - 2], module.stride[axis - 2]
            window = window.narrow(axis, start, stride * (count - 1) + 1)
            window = window[(slice(None),) * axis + (slice(None, None, stride),)]
        rows = window.movedim(1, -1).reshape(-1, tensor.shape[1])
        found.append(rows if chosen is None else rows[chosen])
    return torch.stack(found, 2).flatten(1)


def _padded(module: Any, tensor: Tensor) -> Tensor:
    """The input with the layer's own padding around it."""
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    around = module._reversed_padding_repeated_twice
    return nn.functional.pad(tensor, around, mode=mode)
