"""What a captured graph calls to make again what is neither a tensor nor a plain container."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

_LITERALS = (bool, int, float, str, torch.dtype, torch.device, type(None))


def parts_of(item: Any) -> dict[str, Any] | None:
    """What an object of a forward's result is made of; None if it holds no tensor.

    Mappings and dataclasses have their items and fields, other objects (caches of keys and values) those attributes
    that a graph can hold.
    """
    if isinstance(item, Mapping):
        return dict(item)
    if is_dataclass(item) and not isinstance(item, type):
        return {field.name: getattr(item, field.name) for field in fields(item)}
    if not _is_holder(item, depth=4):
        return None
    return {name: value for name, value in vars(item).items() if _is_literal(value) or _is_holder(value, depth=4)}


def _is_literal(item: Any) -> bool:
    return isinstance(item, _LITERALS) or (type(item) in (list, tuple) and all(map(_is_literal, item)))


def _is_holder(item: Any, depth: int) -> bool:
    """Whether tensors are in an object, however deep."""
    if isinstance(item, torch.Tensor):
        return True
    if depth == 0 or isinstance(item, (type, torch.nn.Module)) or callable(item):
        return False
    inside = item.values() if isinstance(item, Mapping) else item if isinstance(item, (list, tuple)) else None
    if inside is None:
        inside = getattr(item, "__dict__", {}).values()
    return any(_is_holder(value, depth - 1) for value in inside)


class Rebuild:
    """Makes an object of a class again from its parts; equal to any other of that class.

    What a graph cannot hold (classes, functions) is taken from the object that was seen.
    """

    kind: type

    def __init__(self, kind: type, rest: dict[str, Any] | None) -> None:
        self.kind, self.rest = kind, rest
        self.__name__ = self.__qualname__ = kind.__name__

    @classmethod
    def like(cls, item: Any) -> Rebuild:
        """For objects like ``item``."""
        if isinstance(item, Mapping) or is_dataclass(item):
            return cls(type(item), None)
        parts = parts_of(item) or {}
        return cls(type(item), {name: value for name, value in vars(item).items() if name not in parts})

    def __call__(self, **parts: Any) -> Any:
        """Make one."""
        if self.rest is None:
            return self.kind(**parts)
        item: Any = object.__new__(self.kind)
        vars(item).update(self.rest | parts)
        return item

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rebuild) and self.kind is other.kind

    def __hash__(self) -> int:
        return hash(self.kind)


@cache
def applying(function: Any) -> Callable[..., Any]:
    """The ``apply`` of a custom autograd function as a plain function, one and the same for all traces."""

    def apply(*args: Any) -> Any:
        return function.apply(*args)

    apply.__name__ = apply.__qualname__ = function.__name__
    return apply


def real_tensor(array: Any) -> torch.Tensor:
    """A tensor with the data of a NumPy array, whatever modes are on."""
    with _disable_current_modes(), torch._C.DisableTorchFunction():
        return torch.as_tensor(array.copy())
