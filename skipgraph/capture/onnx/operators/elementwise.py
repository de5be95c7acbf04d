"""Arithmetic, comparisons and activations, element by element."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from skipgraph.capture.onnx.at import At, Operand, UnsupportedError, converts

if TYPE_CHECKING:
    import onnx_ir as ir

_UNARY: dict[str, Callable[..., Any]] = {
    "Abs": torch.abs, "Acos": torch.acos, "Acosh": torch.acosh, "Asin": torch.asin, "Asinh": torch.asinh,
    "Atan": torch.atan, "Atanh": torch.atanh, "BitwiseNot": torch.bitwise_not, "Ceil": torch.ceil, "Cos": torch.cos,
    "Cosh": torch.cosh, "Erf": torch.erf, "Exp": torch.exp, "Floor": torch.floor, "HardSwish": F.hardswish,
    "IsNaN": torch.isnan, "Log": torch.log, "Mish": F.mish, "Neg": torch.neg, "Not": torch.logical_not,
    "Reciprocal": torch.reciprocal, "Relu": torch.relu, "Round": torch.round, "Sigmoid": torch.sigmoid,
    "Sign": torch.sign, "Sin": torch.sin, "Sinh": torch.sinh, "Softplus": F.softplus, "Softsign": F.softsign,
    "Sqrt": torch.sqrt, "Tan": torch.tan, "Tanh": torch.tanh,
}  # fmt: skip
_BINARY: dict[str, Callable[..., Any]] = {"Add": operator.add, "Mul": operator.mul, "Sub": operator.sub}
_OF_TENSORS: dict[str, Callable[..., Any]] = {
    "And": torch.logical_and, "BitwiseAnd": torch.bitwise_and, "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor, "Equal": torch.eq, "Greater": torch.gt, "GreaterOrEqual": torch.ge,
    "Less": torch.lt, "LessOrEqual": torch.le, "Or": torch.logical_or, "Xor": torch.logical_xor,
}  # fmt: skip


@converts(*_UNARY)
def unary(at: At) -> Any:
    """One operand, no attribute."""
    return at.call(_UNARY[at.node.op_type], at[0])


@converts(*_BINARY)
def binary(at: At) -> Any:
    """Two operands."""
    return at.call(_BINARY[at.node.op_type], *scalars(at, at[0], at[1]))


@converts(*_OF_TENSORS)
def compared(at: At) -> Any:
    """Two operands, of which PyTorch takes no plain number on the left, or on neither side."""
    return at.call(_OF_TENSORS[at.node.op_type], at[0], at[1])


def scalars(at: At, left: Operand, right: Operand) -> tuple[Any, Any]:
    """Two operands, one of which may be a plain number: where it is one number that broadcasts to nothing new."""
    return _scalar(at, left, right), _scalar(at, right, left)


def _scalar(at: At, operand: Operand, other: Operand) -> Any:
    plain = isinstance(operand, torch.Tensor) and operand.numel() == 1 and operand.device.type != "meta"
    if plain and not isinstance(other, torch.Tensor) and operand.dim() <= at.rank(other):
        return operand.item()
    return operand


@converts("Div")
def divided(at: At) -> Any:
    """Integers are cut off towards zero."""
    left, right = scalars(at, at[0], at[1])
    if at.dtype(at[0]).is_floating_point:
        return at.call(operator.truediv, left, right)
    return at.call(torch.div, at[0], at[1], rounding_mode="trunc")


@converts("Mod")
def remainder(at: At) -> Any:
    """By the sign of the divisor, or with ``fmod`` of the dividend."""
    return at.call(torch.fmod if at.attribute("fmod", 0) else torch.remainder, at[0], at[1])


@converts("Pow")
def power(at: At) -> Any:
    """The result is of the base's dtype."""
    base, exponent = at[0], at[1]
    made = at.call(torch.pow, base, _scalar(at, exponent, base))
    return made if at.dtype(made) is at.dtype(base) else at.method("to", made, at.dtype(base))


@converts("BitShift")
def shifted(at: At) -> Any:
    """Left or right."""
    left = at.attribute("direction") == "LEFT"
    return at.call(torch.bitwise_left_shift if left else torch.bitwise_right_shift, at[0], at[1])


def _folded(at: At, function: Callable[..., Any]) -> Any:
    total = at[0]
    for operand in at.operands()[1:]:
        total = at.call(function, total, operand)
    return total


@converts("Sum")
def total(at: At) -> Any:
    """Any number of operands."""
    return _folded(at, operator.add)


@converts("Mean")
def mean(at: At) -> Any:
    """Of any number of operands."""
    return at.call(operator.truediv, _folded(at, operator.add), float(len(at)))


@converts("Max")
def maximum(at: At) -> Any:
    """Of any number of operands."""
    return _folded(at, torch.maximum)


@converts("Min")
def minimum(at: At) -> Any:
    """Of any number of operands."""
    return _folded(at, torch.minimum)


@converts("Where")
def where(at: At) -> Any:
    """By a condition."""
    return at.call(torch.where, at[0], at[1], at[2])


@converts("Clip")
def clipped(at: At) -> Any:
    """Between two numbers, either of which may be left out: attributes before operator set 11."""
    low, high = (
        at.attribute(name) if at.version < 11 else at.number(place) for place, name in ((1, "min"), (2, "max"))
    )
    if low is not None and high is not None and at.dtype(at[0]).is_floating_point:
        return at.call(F.hardtanh, at[0], low, high)
    return at.call(torch.clamp, at[0], low, high) if low is not None or high is not None else at[0]


@converts("LeakyRelu")
def leaky_relu(at: At) -> Any:
    """With a slope for negative numbers."""
    return at.call(F.leaky_relu, at[0], at.attribute("alpha", 0.01))


@converts("Elu")
def elu(at: At) -> Any:
    """With a scale for negative numbers."""
    return at.call(F.elu, at[0], at.attribute("alpha", 1.0))


@converts("Celu")
def celu(at: At) -> Any:
    """With a scale for negative numbers."""
    return at.call(F.celu, at[0], at.attribute("alpha", 1.0))


@converts("Selu")
def selu(at: At) -> Any:
    """With its usual numbers; others are no SELU."""
    if abs(at.attribute("alpha", 1.67326319) - 1.67326319) + abs(at.attribute("gamma", 1.05070098) - 1.05070098) > 1e-5:
        raise UnsupportedError("PyTorch's SELU has fixed numbers, and these are others")
    return at.call(F.selu, at[0])


@converts("ThresholdedRelu")
def thresholded_relu(at: At) -> Any:
    """Zero up to a threshold."""
    return at.call(F.threshold, at[0], at.attribute("alpha", 1.0), 0.0)


@converts("HardSigmoid")
def hard_sigmoid(at: At) -> Any:
    """max(0, min(1, α·x + β)); PyTorch has it with α = 1/6 and β = 1/2."""
    slope, shift = 6 * at.attribute("alpha", 0.2), 6 * (at.attribute("beta", 0.5) - 0.5)
    scaled = at[0] if abs(slope - 1) < 1e-5 else at.call(operator.mul, at[0], slope)
    moved = scaled if abs(shift) < 1e-5 else at.call(operator.add, scaled, shift)
    return at.call(F.hardsigmoid, moved)


@converts("Gelu", "com.microsoft::Gelu")
def gelu(at: At) -> Any:
    """Exact, or by the hyperbolic tangent."""
    return at.call(F.gelu, at[0], approximate=at.attribute("approximate", "none"))


@converts("Swish")
def swish(at: At) -> Any:
    """x·sigmoid(α·x)."""
    if at.attribute("alpha", 1.0) != 1.0:
        scaled = at.call(operator.mul, at[0], at.attribute("alpha"))
        return at.call(operator.mul, at[0], at.call(torch.sigmoid, scaled))
    return at.call(F.silu, at[0])


@converts("Cast")
def cast(at: At) -> Any:
    """To another dtype."""
    import onnx_ir as ir

    from skipgraph.capture.onnx.tensors import dtype_of

    wanted = ir.DataType(at.attribute("to"))
    dtype = dtype_of(wanted)
    if dtype is None:
        raise UnsupportedError(f"PyTorch has no tensors of type {wanted.name}")
    return at[0] if at.dtype(at[0]) is dtype else at.method("to", at[0], dtype)


@converts("CastLike")
def cast_like(at: At) -> Any:
    """To the dtype of another tensor."""
    dtype = at.dtype(at[1])
    return at[0] if at.dtype(at[0]) is dtype else at.method("to", at[0], dtype)


@converts("Identity", "Dropout")
def identity(at: At) -> Any:
    """In inference, the operand itself."""
    if at.node.op_type == "Dropout" and at.is_read(1):
        raise UnsupportedError("its mask is read")
    if at.node.op_type == "Dropout" and at.maybe(2) is not None and at.number(2):
        raise UnsupportedError("it is in training mode")
    return at[0]


@converts("QuantizeLinear")
def quantized(at: At) -> Any:
    """Rounded to steps of a scale, as integers: kept as the numbers that those stand for."""
    scale, zero = at.constant(1), at.constant(2)
    if scale is None or scale.numel() != 1:
        raise UnsupportedError("each channel has a scale of its own")
    dtype = torch.uint8 if zero is None else zero.dtype
    if dtype not in (torch.uint8, torch.int8):
        raise UnsupportedError(f"it makes {str(dtype).removeprefix('torch.')}")
    if not _is_dequantized_alike(at, at.node.outputs[0], scale, zero):
        raise UnsupportedError("its integers are read")
    limits = torch.iinfo(dtype)
    offset = 0 if zero is None else int(zero)
    return at.call(torch.ops.skipgraph.quantize_dequantize.default, at[0], float(scale), offset, limits.min, limits.max)


# What moves or picks numbers, and is the same for integers and for what they stand for.
_CARRYING = (
    "Concat DepthToSpace Expand Flatten Gather Identity MaxPool Reshape Slice SpaceToDepth Split Squeeze Tile "
    "Transpose Unsqueeze"
).split()


def _is_dequantized_alike(at: At, value: ir.Value, scale: torch.Tensor, zero: torch.Tensor | None) -> bool:
    """Whether all that reads integers makes the numbers of them that they were made of."""
    if value.is_graph_output():
        return False
    for reader, _ in value.uses():
        if reader.op_type == "DequantizeLinear":
            other, shift = at.of(reader).constant(1), at.of(reader).constant(2)
            same = other is not None and other.numel() == 1 and float(other) == float(scale)
            if not same or (0 if shift is None else int(shift)) != (0 if zero is None else int(zero)):
                return False
            continue
        handed_on = all(_is_dequantized_alike(at, one, scale, zero) for one in reader.outputs)
        if reader.op_type not in _CARRYING or not handed_on:
            return False
    return True


@torch.library.custom_op("skipgraph::quantize_dequantize", mutates_args=())
def quantize_dequantize(x: torch.Tensor, scale: float, zero: int, low: int, high: int) -> torch.Tensor:
    """Round to steps of ``scale``. One operator, so that it is no clamp, which would be a non-linearity."""
    return (torch.clamp(torch.round(x / scale) + zero, low, high) - zero) * scale


@quantize_dequantize.register_fake
def _(x: torch.Tensor, scale: float, zero: int, low: int, high: int) -> torch.Tensor:
    return torch.empty_like(x)


# Rounding has no gradient; what is passed on is that of the numbers that were rounded.
torch.library.register_autograd(quantize_dequantize, lambda ctx, gradient: (gradient, None, None, None, None))


@converts("DequantizeLinear")
def dequantized(at: At) -> Any:
    """Integers of the file as numbers; what was quantised in the graph is kept so already."""
    if not isinstance(at[0], torch.Tensor):
        if at.dtype(at[0]).is_floating_point:
            return at[0]
        raise UnsupportedError("its integers are computed")
    scale, zero = at.constant(1), at.constant(2)
    assert scale is not None
    shape = [1] * at[0].dim()
    if scale.numel() > 1:
        if scale.dim() > 1:
            raise UnsupportedError("its scales are of blocks")
        shape[at.axis(at[0], at.attribute("axis", 1))] = -1
    moved = at[0].to(scale.dtype) if zero is None else at[0].to(scale.dtype) - zero.to(scale.dtype).reshape(shape)
    return moved * scale.reshape(shape)
