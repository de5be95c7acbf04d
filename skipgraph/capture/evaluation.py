"""No operator is evaluated twice for the same shapes and arguments: on meta, evaluation is what costs.

A few are not evaluated at all: `skipgraph.capture.results` knows what they make.
"""

from __future__ import annotations

from typing import Any

import torch

from skipgraph.capture.program import Value
from skipgraph.capture.results import FIRST_OPERAND, Recipe, by_rule, looks_of

# By its overload, so that no mode takes it for a call of the user's.
_empty = torch.ops.aten.empty_strided.default


class Evaluation:
    """Remembers what operators return on meta tensors, and makes it anew.

    The result of an operator is a function of the shapes, strides and dtypes of its tensors and of its other
    arguments. What a kernel returns in memory of its own can be made again as an empty tensor; what it writes in place
    is returned as it is, if it had the same shape and strides after the first time.
    """

    def __init__(self) -> None:
        self._recipes: dict[Any, Recipe] = {}

    def result(
        self, overload: torch._ops.OpOverload, args: Any, kwargs: Any, given: list[Any], named: dict[str, Any]
    ) -> Any:
        """What an operator returns, recalled or evaluated.

        Parameters
        ----------
        overload : torch._ops.OpOverload
            It returns fresh tensors alone, or the first operand, which it writes in place.
        args, kwargs : tuple, dict
            Its arguments; what it writes, or some tensor among them, is on meta.
        given, named : list, dict
            The same with values in place of the tensors.
        """
        recipe = None if named else by_rule(overload, given)
        if recipe is None:
            try:
                key = (overload, _described(given), _described(tuple(named.items())) if named else None)
                recipe = self._recipes.get(key)
            except TypeError:  # an argument without a hash
                return overload(*args, **kwargs)
            if recipe is None:
                result = overload(*args, **kwargs)
                recipe = _recipe(result, given, args)
                if recipe is not None:
                    self._recipes[key] = recipe
                return result
        if recipe is FIRST_OPERAND:
            return args[0]
        if len(recipe) == 1:
            shape, stride, dtype = recipe[0]
            return _empty(shape, stride, dtype=dtype, device="meta")
        return tuple([_empty(shape, stride, dtype=dtype, device="meta") for shape, stride, dtype in recipe])


def _recipe(result: Any, given: list[Any], args: Any) -> Recipe | None:
    """How to make a result again, if it is fresh tensors that fill their memory, or the first operand unchanged."""
    if args and result is args[0]:
        return FIRST_OPERAND if ((result.shape, result.stride(), result.dtype),) == looks_of(given[0]) else None
    results = (result,) if isinstance(result, torch.Tensor) else result
    if not isinstance(results, tuple) or not all(isinstance(tensor, torch.Tensor) for tensor in results):
        return None
    whole = all(
        tensor.is_meta and tensor.storage_offset() == 0 and tensor.untyped_storage().nbytes() == _extent(tensor)
        for tensor in results
    )
    distinct = len({tensor.untyped_storage()._cdata for tensor in results}) == len(results)
    if not whole or not distinct:
        return None
    return tuple((tensor.shape, tensor.stride(), tensor.dtype) for tensor in results)


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
