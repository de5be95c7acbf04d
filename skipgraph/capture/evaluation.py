"""No operator is evaluated twice for the same shapes and arguments: on meta, evaluation is what costs.

A few are not evaluated at all. Their kernels for meta tensors are Python, which goes through the whole arithmetic of a
batch norm to find out that its result looks like its operand. What they make of contiguous tensors is a rule here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from skipgraph.capture.program import Value

# By its overload, so that no mode takes it for a call of the user's.
_empty = torch.ops.aten.empty_strided.default

_Recipe = tuple[tuple[torch.Size, tuple[int, ...], torch.dtype], ...]


class Evaluation:
    """Remembers what pure operators return on meta tensors, and makes it anew.

    The result of such an operator is a function of the shapes, strides and dtypes of its tensors and of its other
    arguments; what a kernel returns in memory of its own can be made again as an empty tensor.
    """

    def __init__(self) -> None:
        self._recipes: dict[Any, tuple[bool, _Recipe]] = {}

    def recalled(self, overload: torch._ops.OpOverload, given: list[Any], named: dict[str, Any]) -> tuple[Any, Any]:
        """The result, or NotImplemented if it must be evaluated, and the key to remember it by."""
        try:
            key = (overload, _described(given), _described(tuple(named.items())) if named else None)
            found = self._recipes.get(key)
        except TypeError:  # an argument without a hash
            return NotImplemented, None
        if found is None:
            rule = _RULES.get(overload)
            recipe = rule(given) if rule is not None and not named else None
            if recipe is None:
                return NotImplemented, key
            found = self._recipes[key] = (len(recipe) == 1, recipe)
        single, recipe = found
        made = [_empty(shape, stride, dtype=dtype, device="meta") for shape, stride, dtype in recipe]
        return (made[0] if single else tuple(made)), key

    def remember(self, key: Any, result: Any) -> None:
        """Remember what an operator returned, if it is fresh tensors that fill their memory."""
        if key is None:
            return
        single = isinstance(result, torch.Tensor)
        results = (result,) if single else result
        if not isinstance(results, tuple) or not all(isinstance(tensor, torch.Tensor) for tensor in results):
            return
        recipe = tuple((tensor.shape, tensor.stride(), tensor.dtype) for tensor in results)
        whole = all(
            tensor.device.type == "meta"
            and tensor.storage_offset() == 0
            and tensor.untyped_storage().nbytes() == _extent(tensor)
            for tensor in results
        )
        distinct = len({tensor.untyped_storage()._cdata for tensor in results}) == len(results)
        if whole and distinct:
            self._recipes[key] = (single, recipe)


def _is_plain(value: Any) -> bool:
    """Whether a value is a contiguous floating-point tensor."""
    if type(value) is not Value or not value.dtype.is_floating_point or 0 in value.shape:
        return False
    expected = 1
    for size, stride in zip(reversed(value.shape), reversed(value.stride), strict=True):
        if stride != expected:
            return False
        expected *= size
    return True


def _like_first(given: list[Any]) -> _Recipe | None:
    first = given[0]
    if not _is_plain(first) or any(type(other) is Value for other in given[1:]):
        return None
    return ((first.shape, first.stride, first.dtype),)


def _like_both(given: list[Any]) -> _Recipe | None:
    if len(given) != 2 or not all(map(_is_plain, given)):
        return None
    first, second = given
    if first.shape != second.shape or first.dtype is not second.dtype:
        return None
    return ((first.shape, first.stride, first.dtype),)


def _batch_norm(given: list[Any]) -> _Recipe | None:
    """Of evaluation: the statistics that it returns are one number a channel, in at least single precision."""
    first, training = given[0], given[5]
    if not _is_plain(first) or len(first.shape) < 2 or training:
        return None
    precision = torch.promote_types(first.dtype, torch.float32)
    statistic = (torch.Size((first.shape[1],)), (1,), precision)
    return (first.shape, first.stride, first.dtype), statistic, statistic


def _joined(given: list[Any]) -> _Recipe | None:
    operands, axis = given[0], given[1] if len(given) > 1 else 0
    first = operands[0]
    if not all(map(_is_plain, operands)) or any(one.dtype is not first.dtype for one in operands):
        return None
    rank = len(first.shape)
    axis %= max(rank, 1)
    others = {(*one.shape[:axis], *one.shape[axis + 1 :]) for one in operands}
    if not rank or len(others) != 1 or any(len(one.shape) != rank for one in operands):
        return None
    shape = [*first.shape]
    shape[axis] = sum(one.shape[axis] for one in operands)
    strides = [1] * rank
    for place in range(rank - 1, 0, -1):
        strides[place - 1] = strides[place] * shape[place]
    return ((torch.Size(shape), tuple(strides), first.dtype),)


_aten: Any = torch.ops.aten
_RULES: dict[Any, Callable[[list[Any]], _Recipe | None]] = {
    **dict.fromkeys(
        (_aten.relu.default, _aten.silu.default, _aten.gelu.default, _aten.sigmoid.default, _aten.tanh.default,
         _aten.hardtanh.default, _aten.hardswish.default, _aten.hardsigmoid.default, _aten.leaky_relu.default),
        _like_first,
    ),
    **dict.fromkeys((_aten.add.Tensor, _aten.sub.Tensor, _aten.mul.Tensor, _aten.div.Tensor), _like_both),
    _aten.native_batch_norm.default: _batch_norm,
    _aten.cat.default: _joined,
}  # fmt: skip


def _extent(tensor: torch.Tensor) -> int:
    """Bytes from the first to behind the last element."""
    if tensor.numel() == 0:
        return 0
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return (last + 1) * tensor.itemsize


def _described(argument: Any) -> Any:
    """An argument by all that an evaluation on meta can depend on."""
    kind = type(argument)
    if kind is Value:
        return argument.shape, argument.stride, argument.dtype
    if kind is tuple or kind is list:
        return tuple([_described(item) for item in argument])
    # Equal numbers of different types are different arguments.
    return argument if kind is int or kind is str else (kind, argument)
