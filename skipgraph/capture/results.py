"""What operators make of contiguous floating-point tensors, where PyTorch's meta kernels are Python and slow.

The kernels go through the whole arithmetic of a norm to find out that its result looks like its operand. A rule here
says the same from the shapes alone: in all of them the results are contiguous, in memory of their own. A rule that is
not sure, or sees arguments that the kernel would refuse, says nothing, and the kernel is run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import Any

import torch

from skipgraph.capture.program import Value

# Shape, strides and dtype of each result.
Recipe = tuple[tuple[tuple[int, ...], tuple[int, ...], torch.dtype], ...]
FIRST_OPERAND: Recipe = ()  # no result of its own: the operand that was written over
Rule = Callable[[list[Any]], Recipe | None]

_NUMBERS = frozenset({int, float})
_FRACTIONS = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})


def _is_plain(value: Any) -> bool:
    """Whether a value is a contiguous floating-point tensor with elements."""
    if type(value) is not Value or value.dtype not in _FRACTIONS or 0 in value.shape:
        return False
    strides: tuple[int, ...] = _contiguous(value.shape)
    return value.stride == strides


@lru_cache(maxsize=4096)
def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of a contiguous tensor."""
    strides = [1] * len(shape)
    for place in range(len(shape) - 1, 0, -1):
        strides[place - 1] = strides[place] * shape[place]
    return tuple(strides)


def _made(shape: Sequence[int], dtype: torch.dtype) -> Recipe:
    size = torch.Size(shape)
    return ((size, _contiguous(size), dtype),)


def looks_of(value: Value) -> Recipe:
    """What makes a tensor like the one of a value."""
    return ((value.shape, value.stride, value.dtype),)


def _like_first(given: list[Any]) -> Recipe | None:
    first = given[0]
    if not _is_plain(first) or any(type(other) is Value for other in given[1:]):
        return None
    return looks_of(first)


def _like_number(given: list[Any]) -> Recipe | None:
    """Of a tensor and a number, which leaves the dtype of a fraction alone."""
    return _like_first(given) if len(given) == 2 and type(given[1]) in _NUMBERS else None


def _like_both(given: list[Any]) -> Recipe | None:
    """Of two operands: the shape that both broadcast to."""
    if len(given) != 2 or not _is_plain(given[0]):
        return None
    first, second = given
    if type(second) in _NUMBERS:
        return looks_of(first)
    if not _is_plain(second) or first.dtype is not second.dtype:
        return None
    if first.shape == second.shape:
        return looks_of(first)
    rank = max(len(first.shape), len(second.shape))
    sizes = [((1,) * (rank - len(one.shape)) + tuple(one.shape)) for one in (first, second)]
    if any(a != b and 1 not in (a, b) for a, b in zip(*sizes, strict=True)):
        return None
    return _made([max(pair) for pair in zip(*sizes, strict=True)], first.dtype)


@cache
def _precision(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _batch_norm(given: list[Any]) -> Recipe | None:
    """Of evaluation: the statistics that it returns are one number a channel, in at least single precision."""
    first, training = given[0], given[5]
    if not _is_plain(first) or len(first.shape) < 2 or training:
        return None
    channels = first.shape[1:2]
    if any(one is not None and one.shape != channels for one in given[1:5]):
        return None
    statistic = _made(channels, _precision(first.dtype))
    return *looks_of(first), *statistic, *statistic


def _layer_norm(given: list[Any]) -> Recipe | None:
    """The statistics have size 1 along the axes that are normalised, in at least single precision."""
    first, normalised, scales = given[0], tuple(given[1]), given[2:4]
    kept = len(getattr(first, "shape", ())) - len(normalised)
    if not _is_plain(first) or not normalised or kept < 0 or tuple(first.shape[kept:]) != normalised:
        return None
    for one in scales:
        if one is not None and not (_is_plain(one) and tuple(one.shape) == normalised and one.dtype is first.dtype):
            return None
    statistic = _made((*first.shape[:kept], *(1,) * len(normalised)), _precision(first.dtype))
    return *looks_of(first), *statistic, *statistic


def _joined(given: list[Any]) -> Recipe | None:
    operands, axis = given[0], given[1] if len(given) > 1 else 0
    first = operands[0] if operands else None
    if first is None or not all(map(_is_plain, operands)) or any(one.dtype is not first.dtype for one in operands):
        return None
    rank = len(first.shape)
    if not -rank <= axis < rank or any(len(one.shape) != rank for one in operands):
        return None
    axis %= rank
    if len({(*one.shape[:axis], *one.shape[axis + 1 :]) for one in operands}) != 1:
        return None
    shape = [*first.shape]
    shape[axis] = sum(one.shape[axis] for one in operands)
    return _made(shape, first.dtype)


def _convolution(given: list[Any]) -> Recipe | None:
    """Sizes by the formulas of the documentation of `torch.nn.Conv2d` and `torch.nn.ConvTranspose2d`.

    One channel is left to the kernel: contiguous and channels last may then be told apart one way or the other.
    """
    first, weight, bias, stride, padding, dilation, transposed, extra, groups = given
    if not _is_plain(first) or not _is_plain(weight) or weight.dtype is not first.dtype:
        return None
    kernel = weight.shape[2:]
    numbers = (stride, padding, dilation, extra)
    if not kernel or len(first.shape) != len(weight.shape) or any(len(one) != len(kernel) for one in numbers):
        return None
    if first.shape[1] == 1:
        return None
    if min(*stride, *dilation, groups) < 1 or min(*padding, *extra) < 0:
        return None
    read, filters = weight.shape[1] * groups, weight.shape[0]
    if transposed:
        read, filters = filters, read
    if read != first.shape[1] or filters % groups:
        return None
    if bias is not None and (bias.dtype is not first.dtype or tuple(bias.shape) != (filters,)):
        return None
    size_of = _size_of_transposed if transposed else _size_of_convolved
    sizes = list(map(size_of, first.shape[2:], kernel, *numbers))
    return _made((first.shape[0], filters, *sizes), first.dtype) if min(sizes) > 0 else None


def _size_of_convolved(size: int, width: int, step: int, pad: int, apart: int, _: int) -> int:
    return (size + 2 * pad - apart * (width - 1) - 1) // step + 1


def _size_of_transposed(size: int, width: int, step: int, pad: int, apart: int, extra: int) -> int:
    return (size - 1) * step - 2 * pad + apart * (width - 1) + extra + 1


def _averaged(given: list[Any]) -> Recipe | None:
    first, axes, kept = given[0], given[1] if len(given) > 1 else None, bool(given[2]) if len(given) > 2 else False
    if not _is_plain(first) or not axes or len(given) > 3:
        return None
    rank = len(first.shape)
    reduced = {axis % rank for axis in axes if -rank <= axis < rank}
    if len(reduced) != len(axes):
        return None
    if kept:
        return _made([1 if axis in reduced else size for axis, size in enumerate(first.shape)], first.dtype)
    return _made([size for axis, size in enumerate(first.shape) if axis not in reduced], first.dtype)


def _product(given: list[Any]) -> Recipe | None:
    """Of two matrices, in any layout, and of a bias of one number a column before them."""
    *bias, left, right = given
    matrices = [one for one in (left, right) if type(one) is Value and one.dtype in _FRACTIONS]
    if len(matrices) != 2 or not len(left.shape) == len(right.shape) == 2 or left.shape[1] != right.shape[0]:
        return None
    shape = (left.shape[0], right.shape[1])
    if left.dtype is not right.dtype or 0 in (*left.shape, *right.shape):
        return None
    if any(not _is_plain(one) or one.dtype is not left.dtype or tuple(one.shape) != shape[1:] for one in bias):
        return None
    return _made(shape, left.dtype)


def _softmax(given: list[Any]) -> Recipe | None:
    if len(given) != 2 or not _is_plain(given[0]):
        return None
    rank = len(given[0].shape)
    return _like_first(given) if -rank <= given[1] < rank else None


_aten: Any = torch.ops.aten
_ELEMENTWISE: dict[str, tuple[Rule, str]] = {
    **dict.fromkeys(
        ("relu", "silu", "gelu", "sigmoid", "tanh", "hardtanh", "hardswish", "hardsigmoid", "leaky_relu"),
        (_like_first, "default"),
    ),
    **dict.fromkeys(("add", "sub", "mul", "div"), (_like_both, "Tensor")),
}
RULES: dict[Any, Rule] = {
    **{getattr(getattr(_aten, name), overload): rule for name, (rule, overload) in _ELEMENTWISE.items()},
    _aten.mul.Scalar: _like_number,
    _aten.pow.Tensor_Scalar: _like_number,
    _aten.native_batch_norm.default: _batch_norm,
    _aten.native_layer_norm.default: _layer_norm,
    _aten.cat.default: _joined,
    _aten.convolution.default: _convolution,
    _aten.mean.dim: _averaged,
    _aten.mm.default: _product,
    _aten.addmm.default: _product,
    **({_aten._safe_softmax.default: _softmax} if hasattr(_aten, "_safe_softmax") else {}),
}
# The same written over the first operand, where that is what the result looks like.
IN_PLACE: dict[Any, Rule] = {
    getattr(getattr(_aten, f"{name}_"), overload): rule for name, (rule, overload) in _ELEMENTWISE.items()
}


def by_rule(overload: torch._ops.OpOverload, given: list[Any]) -> Recipe | None:
    """What an operator makes of these arguments, if a rule knows."""
    rule = RULES.get(overload)
    if rule is not None:
        return rule(given)
    rule = IN_PLACE.get(overload)
    if rule is None:
        return None
    return FIRST_OPERAND if rule(given) == looks_of(given[0]) else None
