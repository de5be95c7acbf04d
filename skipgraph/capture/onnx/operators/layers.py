"""Convolutions, matrix products, normalisations, embeddings, recurrent layers."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from skipgraph.capture.onnx.at import At, Operand, UnsupportedError, converts, integers

_CONVOLUTIONS: dict[int, tuple[Any, Any]] = {
    1: (nn.Conv1d, F.conv1d), 2: (nn.Conv2d, F.conv2d), 3: (nn.Conv3d, F.conv3d)
}  # fmt: skip
_TRANSPOSED: dict[int, tuple[Any, Any]] = {
    1: (nn.ConvTranspose1d, F.conv_transpose1d),
    2: (nn.ConvTranspose2d, F.conv_transpose2d),
    3: (nn.ConvTranspose3d, F.conv_transpose3d),
}
_BATCH_NORMS: dict[int, Any] = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
_INSTANCE_NORMS: dict[int, Any] = {3: nn.InstanceNorm1d, 4: nn.InstanceNorm2d, 5: nn.InstanceNorm3d}
_TRANSPOSING_GATES = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}  # PyTorch's order in ONNX's


def windows(at: At, operand: Operand, kernel: Sequence[int]) -> tuple[list[int], list[int], list[tuple[int, int]]]:
    """Strides, dilations and the padding before and behind each axis of a window that slides over an operand."""
    rank = len(kernel)
    strides = at.attribute("strides", [1] * rank)
    dilations = at.attribute("dilations", [1] * rank)
    pads = at.attribute("pads", [0] * 2 * rank)
    automatic = at.attribute("auto_pad", "NOTSET")
    if automatic == "VALID":
        pads = [0] * 2 * rank
    elif automatic.startswith("SAME"):
        sizes = at.shape(operand)[-rank:]
        missing = [
            max((math.ceil(size / stride) - 1) * stride + (tap - 1) * dilation + 1 - size, 0)
            for size, stride, tap, dilation in zip(sizes, strides, kernel, dilations, strict=True)
        ]
        less, more = [one // 2 for one in missing], [one - one // 2 for one in missing]
        pads = [*less, *more] if automatic == "SAME_UPPER" else [*more, *less]
    return integers(strides), integers(dilations), list(zip(pads[:rank], pads[rank:], strict=True))


def padded(at: At, operand: Operand, pads: Sequence[tuple[int, int]], value: float = 0.0) -> tuple[Operand, list[int]]:
    """An operand, and the padding that is left to its reader: PyTorch's layers pad alike on both sides of an axis."""
    if all(before == behind for before, behind in pads):
        return operand, [before for before, _ in pads]
    flat = [size for pair in reversed(pads) for size in pair]
    return at.call(F.pad, operand, flat, "constant", value), [0] * len(pads)


def _convolved(at: At) -> tuple[Operand, Operand, Operand | None, tuple[int, ...]]:
    """What a convolution reads, its weight and bias, and the shape of its kernel."""
    kernel = at.shape(at[1])[2:]
    if len(kernel) not in _CONVOLUTIONS:
        raise UnsupportedError(f"it convolves over {len(kernel)} axes")
    return at[0], at[1], at.maybe(2), kernel


def _are_weights(weight: Operand, bias: Operand | None) -> bool:
    """Whether both depend on no model input, so that a layer can hold them."""
    return isinstance(weight, torch.Tensor) and (bias is None or isinstance(bias, torch.Tensor))


@converts("Conv")
def convolution(at: At) -> Any:
    """Of one, two or three axes."""
    x, weight, bias, kernel = _convolved(at)
    strides, dilations, pads = windows(at, x, kernel)
    x, padding = padded(at, x, pads)
    groups = at.attribute("group", 1)
    layer, function = _CONVOLUTIONS[len(kernel)]
    if not _are_weights(weight, bias):
        return at.call(function, x, weight, bias, strides, padding, dilations, groups)
    outputs, inputs = weight.shape[0], weight.shape[1] * groups
    module = layer(
        inputs, outputs, tuple(kernel), tuple(strides), tuple(padding), tuple(dilations), groups, bias is not None,
        device="meta",
    )  # fmt: skip
    return at.layer(module, {"weight": weight, "bias": bias}, x)


@converts("ConvTranspose")
def transposed_convolution(at: At) -> Any:
    """Of one, two or three axes."""
    x, weight, bias, kernel = _convolved(at)
    strides, dilations, pads = windows(at, x, kernel)
    extra = at.attribute("output_padding", [0] * len(kernel))
    wanted = at.attribute("output_shape")
    if wanted is not None or at.attribute("auto_pad", "NOTSET").startswith("SAME"):
        raise UnsupportedError("its padding follows from the shape of its result")
    padding, extra, cropped = _cropping(pads, extra, [max(pair) for pair in zip(strides, dilations, strict=True)])
    groups = at.attribute("group", 1)
    layer, function = _TRANSPOSED[len(kernel)]
    if _are_weights(weight, bias):
        module = layer(
            weight.shape[0], weight.shape[1] * groups, tuple(kernel), tuple(strides), tuple(padding), tuple(extra),
            groups, bias is not None, tuple(dilations), device="meta",
        )  # fmt: skip
        made = at.layer(module, {"weight": weight, "bias": bias}, x)
    else:
        made = at.call(function, x, weight, bias, strides, padding, extra, groups, dilations)
    return at.call(F.pad, made, cropped, "constant", 0.0) if any(cropped) else made


def _cropping(
    pads: Sequence[tuple[int, int]], extra: Sequence[int], limits: Sequence[int]
) -> tuple[list[int], list[int], list[int]]:
    """What a transposed convolution crops alike on both sides, what it adds behind, and what is cropped after it.

    PyTorch's layers crop alike on both sides. What ONNX keeps behind is an output padding, where PyTorch takes one of
    that size.
    """
    added = [more + before - behind for more, (before, behind) in zip(extra, pads, strict=True)]
    if all(0 <= more < max(limit, 1) or not more for more, limit in zip(added, limits, strict=True)):
        return [before for before, _ in pads], added, []
    return [0] * len(pads), list(extra), [-size for pair in reversed(pads) for size in pair]


@converts("Gemm")
def affine(at: At) -> Any:
    """α·A·B + β·C: a linear layer where B and C are weights, and C a row."""
    left, right, bias = at[0], at[1], at.maybe(2)
    alpha, beta = at.attribute("alpha", 1.0), at.attribute("beta", 1.0)
    if at.attribute("transA", 0):
        left = at.call(torch.t, left)
    turned = bool(at.attribute("transB", 0))
    rows = at.shape(right)[0 if turned else 1]
    row = bias is None or (isinstance(bias, torch.Tensor) and at.shape(bias)[-1:] == (rows,) == (bias.numel(),))
    if isinstance(right, torch.Tensor) and right.is_floating_point() and row:
        weight = right if turned else right.t().contiguous()
        weight = weight if alpha == 1.0 else weight * alpha
        shift = bias if bias is None or bias.dim() == 1 else bias.reshape(rows)
        shift = shift if shift is None or beta == 1.0 else shift * beta
        return _linear(at, left, at.renamed(weight, right, ("Gemm", turned, alpha)), shift)
    right = at.call(torch.t, right) if turned else right
    product = at.call(torch.matmul, left, right)
    if alpha != 1.0:
        product = at.call(operator.mul, product, alpha)
    if bias is None:
        return product
    return at.call(operator.add, product, bias if beta == 1.0 else at.call(operator.mul, bias, beta))


def _linear(at: At, x: Operand, weight: torch.Tensor, bias: torch.Tensor | None) -> Any:
    module = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    return at.layer(module, {"weight": weight, "bias": bias}, x)


@converts("MatMul")
def matrix_product(at: At) -> Any:
    """A linear layer where the right factor is a weight."""
    left, right = at[0], at[1]
    if isinstance(right, torch.Tensor) and right.dim() == 2 and right.is_floating_point():
        return _linear(at, left, at.renamed(right.t().contiguous(), right, "turned"), None)
    return at.call(torch.matmul, left, right)


@converts("Einsum")
def einsum(at: At) -> Any:
    """By an equation."""
    return at.call(torch.einsum, at.attribute("equation"), *at.operands())


@converts("BatchNormalization")
def batch_norm(at: At) -> Any:
    """With the statistics of the file."""
    if at.attribute("training_mode", 0):
        raise UnsupportedError("it is in training mode")
    if not at.attribute("spatial", 1):
        raise UnsupportedError("it has statistics of each position")
    names = ("weight", "bias", "running_mean", "running_var")
    tensors = {name: at.constant(place) for place, name in enumerate(names, 1)}
    rank = at.rank(at[0])
    if rank not in _BATCH_NORMS:
        raise UnsupportedError(f"its operand has {rank} axes")
    module = _BATCH_NORMS[rank](at.shape(at[0])[1], eps=at.attribute("epsilon", 1e-5), device="meta")
    return at.layer(module, {**tensors, "num_batches_tracked": torch.tensor(0)}, at[0])


@converts("InstanceNormalization")
def instance_norm(at: At) -> Any:
    """Of each sample and channel."""
    rank = at.rank(at[0])
    if rank not in _INSTANCE_NORMS:
        raise UnsupportedError(f"its operand has {rank} axes")
    if math.prod(at.shape(at[0])[2:]) < 2:  # of which PyTorch refuses statistics
        raise UnsupportedError("its operand has one position")
    module = _INSTANCE_NORMS[rank](at.shape(at[0])[1], eps=at.attribute("epsilon", 1e-5), affine=True, device="meta")
    return at.layer(module, {"weight": at.constant(1), "bias": at.constant(2)}, at[0])


@converts("GroupNormalization")
def group_norm(at: At) -> Any:
    """Scale and shift are of groups before operator set 21, and of channels since."""
    groups, channels = at.attribute("num_groups"), at.shape(at[0])[1]
    tensors = {}
    for place, name in ((1, "weight"), (2, "bias")):
        tensor = at.constant(place)
        if tensor is not None and at.version < 21:
            tensor = tensor.repeat_interleave(channels // groups)
        tensors[name] = tensor
    return at.layer(nn.GroupNorm(groups, channels, at.attribute("epsilon", 1e-5), device="meta"), tensors, at[0])


def _normalized(at: At) -> list[int]:
    """The shape of what is normalised together."""
    if any(at.is_read(place) for place in range(1, len(at.node.outputs))):
        raise UnsupportedError("its statistics are read")
    return list(at.shape(at[0])[at.axis(at[0], at.attribute("axis", -1)) :])


@converts("LayerNormalization")
def layer_norm(at: At) -> Any:
    """Over the last axes."""
    shape, epsilon = _normalized(at), at.attribute("epsilon", 1e-5)
    weight, bias = (None if one is None else _broadcast(at, one, shape) for one in (at[1], at.maybe(2)))
    if _are_weights(weight, bias):
        module = nn.LayerNorm(shape, epsilon, bias=bias is not None, device="meta")
        return at.layer(module, {"weight": weight, "bias": bias}, at[0])
    return at.call(F.layer_norm, at[0], shape, weight, bias, epsilon)


def _broadcast(at: At, operand: Operand, shape: Sequence[int]) -> Operand:
    """An operand of a shape, which PyTorch's norms want in full and ONNX broadcasts to."""
    return operand if list(at.shape(operand)) == list(shape) else at.call(torch.broadcast_to, operand, list(shape))


@converts("RMSNormalization")
def rms_norm(at: At) -> Any:
    """Over the last axes."""
    shape = _normalized(at)
    return at.call(F.rms_norm, at[0], shape, _broadcast(at, at[1], shape), at.attribute("epsilon", 1e-5))


@converts("LpNormalization")
def normalized(at: At) -> Any:
    """To a norm of one."""
    return at.call(F.normalize, at[0], float(at.attribute("p", 2)), at.attribute("axis", -1))


@converts("LRN")
def local_response_norm(at: At) -> Any:
    """Over neighbouring channels."""
    numbers = (at.attribute("size"), at.attribute("alpha", 1e-4), at.attribute("beta", 0.75), at.attribute("bias", 1.0))
    return at.call(F.local_response_norm, at[0], *numbers)


@converts("PRelu")
def parametric_relu(at: At) -> Any:
    """With one slope, or one a channel."""
    x, slope = at[0], at[1]
    channels = at.shape(x)[1] if at.rank(x) > 1 else 1
    # A slope is broadcast from the right: it is one a channel if it is followed by an axis for each position.
    if isinstance(slope, torch.Tensor) and (
        slope.numel() == 1 or (slope.numel() == channels and slope.dim() == at.rank(x) - 1)
    ):
        weight = slope.reshape(-1)
        return at.layer(nn.PReLU(weight.numel(), device="meta"), {"weight": at.renamed(weight, slope, "flat")}, x)
    return at.call(torch.where, at.call(torch.ge, x, 0), x, at.call(operator.mul, x, slope))


@converts("Attention")
def attention(at: At) -> Any:
    """softmax(q·kᵀ)·v of tensors with an axis of heads."""
    query, key, value, mask = at[0], at[1], at[2], at.maybe(3)
    if at.rank(query) != 4 or at.attribute("softcap", 0.0) or len(at) > 4 or len(at.node.outputs) > 1:
        raise UnsupportedError("it splits heads, caps its scores or has a cache")
    if mask is not None and at.attribute("is_causal", 0):
        raise UnsupportedError("it has a mask beside the causal one")
    grouped = at.shape(query)[1] != at.shape(key)[1]
    options = {"is_causal": bool(at.attribute("is_causal", 0)), "scale": at.attribute("scale"), "enable_gqa": grouped}
    return at.call(F.scaled_dot_product_attention, query, key, value, mask, **options)


@converts("LSTM", "GRU", "RNN")
def recurrent(at: At) -> Any:
    """A layer of torch.nn, whose gates stand in another order."""
    kind = at.node.op_type
    _check_recurrent(at, kind)
    x = at[0]
    length, batch, inputs = at.shape(x)
    weights = [at.constant(1), at.constant(2), at.constant(3)]
    assert weights[1] is not None
    directions, hidden = weights[1].shape[0], at.attribute("hidden_size", weights[1].shape[2])
    layers: dict[str, Any] = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}
    module = layers[kind](inputs, hidden, bias=weights[2] is not None, bidirectional=directions == 2, device="meta")
    tensors = _recurrent_weights(kind, weights, hidden)
    states = [at.maybe(place) for place in ((5, 6) if kind == "LSTM" else (5,))]
    if any(one is not None for one in states):
        empty = torch.zeros(directions, batch, hidden, dtype=weights[1].dtype)
        states = [empty if one is None else one for one in states]
        made = at.layer(module, tensors, x, tuple(states) if kind == "LSTM" else states[0])
    else:
        made = at.layer(module, tensors, x)
    whole, last = at.unpacked(made)
    whole = at.call(torch.reshape, whole, [length, batch, directions, hidden])
    lasts = at.unpacked(last) if kind == "LSTM" else (last,)
    return (at.call(torch.permute, whole, [0, 2, 1, 3]), *lasts)


def _check_recurrent(at: At, kind: str) -> None:
    default = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}[kind]
    functions = at.attribute("activations", default)
    lengths = at.maybe(4)
    reasons = {
        "it runs backwards alone": at.attribute("direction", "forward") == "reverse",
        "its activations are others": functions not in (default, default * 2),
        "it clips": at.attribute("clip") is not None,
        "the batch is its first axis": bool(at.attribute("layout", 0)),
        "it has peepholes": at.maybe(7) is not None,
        "its gates are coupled": bool(at.attribute("input_forget", 0)),
        "its reset gate comes first": kind == "GRU" and not at.attribute("linear_before_reset", 0),
        "sequences end at different steps": lengths is not None
        and not (isinstance(lengths, torch.Tensor) and bool((lengths == at.shape(at[0])[0]).all())),
    }
    for reason, holds in reasons.items():
        if holds:
            raise UnsupportedError(reason)


def _recurrent_weights(kind: str, weights: Sequence[torch.Tensor | None], hidden: int) -> dict[str, torch.Tensor]:
    order = _TRANSPOSING_GATES[kind]
    tensors: dict[str, torch.Tensor] = {}
    read, kept, bias = weights
    assert read is not None
    assert kept is not None
    for place in range(read.shape[0]):
        suffix = "_l0_reverse" if place else "_l0"
        tensors[f"weight_ih{suffix}"] = _reordered(read[place], order, hidden)
        tensors[f"weight_hh{suffix}"] = _reordered(kept[place], order, hidden)
        if bias is not None:
            for name, half in zip(("bias_ih", "bias_hh"), bias[place].chunk(2), strict=True):
                tensors[f"{name}{suffix}"] = _reordered(half, order, hidden)
    return tensors


def _reordered(tensor: torch.Tensor, order: Sequence[int], hidden: int) -> torch.Tensor:
    gates = tensor.split(hidden)
    return torch.cat([gates[place] for place in order])
