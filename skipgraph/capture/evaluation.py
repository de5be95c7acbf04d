"""No operator is evaluated twice for the same shapes and arguments: on meta, evaluation is what costs."""

from __future__ import annotations

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
            return NotImplemented, key
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
