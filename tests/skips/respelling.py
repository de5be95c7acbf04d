"""The same arithmetic in other words: function modes that rewrite calls while a model runs.

Each counts in ``places`` how often it had something to do, so that a test can tell that it did.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MethodWrapperType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

SUMS = {
    torch.add,
    Tensor.add,
    Tensor.add_,
    Tensor.__add__,
    Tensor.__radd__,
    Tensor.__iadd__,
}
CONCATS = {torch.cat, torch.concat, torch.concatenate}


def is_data(argument: Any) -> bool:
    return isinstance(argument, Tensor) and argument.is_floating_point() and not isinstance(argument, nn.Parameter)


class Respelling(TorchFunctionMode):
    """Puts ``add(a, b)`` in place of every sum of two tensors and ``concat(tensors, axis)`` of every concat.

    Either may return NotImplemented where it does not apply: the call is then left as it is.
    """

    def __init__(self) -> None:
        super().__init__()
        self.places = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = self.respelled(func, args, kwargs or {})
        if result is not NotImplemented:
            self.places += 1
            return result
        return func(*args, **(kwargs or {}))

    def respelled(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if func in SUMS and len(args) == 2 and not kwargs and all(is_data(argument) for argument in args):
            return self.add(*args)
        if func in CONCATS:
            axis = args[1] if len(args) > 1 else kwargs.get("dim", 0)
            return self.concat(list(args[0] if args else kwargs["tensors"]), axis)
        return NotImplemented

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        return NotImplemented

    def concat(self, tensors: list[Tensor], axis: int) -> Tensor:
        return NotImplemented


class ConcatAlias(Respelling):
    """``torch.concat`` for ``torch.cat``."""

    def concat(self, tensors: list[Tensor], axis: int) -> Tensor:
        return torch.concat(tensors, dim=axis)


class Swapped(Respelling):
    """Operands of sums and concats in the reverse order."""

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.add(b, a)

    def concat(self, tensors: list[Tensor], axis: int) -> Tensor:
        return torch.cat(tensors[::-1], axis)


class NestedConcat(Respelling):
    """``cat([cat([a, b]), c])`` for ``cat([a, b, c])``, or ``cat([a, cat([b, c])])``."""

    def __init__(self, *, left: bool) -> None:
        super().__init__()
        self.left = left

    def concat(self, tensors: list[Tensor], axis: int) -> Tensor:
        if len(tensors) < 3:
            return NotImplemented
        if self.left:
            return torch.cat([torch.cat(tensors[:-1], axis), tensors[-1]], axis)
        return torch.cat([tensors[0], torch.cat(tensors[1:], axis)], axis)


class _Added(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, a: Tensor, b: Tensor) -> Tensor:
        return a + b

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return gradient, gradient


def _in_place(a: Tensor, b: Tensor) -> Tensor:
    if torch.broadcast_shapes(a.shape, b.shape) != a.shape:
        return NotImplemented
    return a.clone().add_(b)


def _stacked(a: Tensor, b: Tensor) -> Tensor:
    return torch.stack([a, b]).sum(0) if a.shape == b.shape else NotImplemented


ADDITIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "operator": lambda a, b: a + b,
    "in place": _in_place,
    "alpha": lambda a, b: torch.add(a, b * 4.0, alpha=0.25),
    "addcmul": lambda a, b: torch.addcmul(a, b, torch.ones_like(b)),
    "addcdiv": lambda a, b: torch.addcdiv(a, b, torch.ones_like(b)),
    "lerp": lambda a, b: torch.lerp(a, b, 0.5),
    "stacked": _stacked,
    "autograd function": _Added.apply,
    "leaf module": lambda a, b: torch.ao.nn.quantized.FloatFunctional().add(a, b),
    "sum of a list": lambda a, b: sum([a, b]),
}


class Addition(Respelling):
    """Every sum of two tensors in the words of one of `ADDITIONS`."""

    def __init__(self, words: str) -> None:
        super().__init__()
        self.words = ADDITIONS[words]

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        return self.words(a, b)


class ExplicitPadding(Respelling):
    """``F.pad`` and a convolution without padding for a convolution with its own."""

    FUNCTIONS = (F.conv1d, F.conv2d, F.conv3d)

    def respelled(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if func not in self.FUNCTIONS or len(args) < 5 or isinstance(args[4], str) or not any(args[4]):
            return NotImplemented
        margins = [margin for padding in reversed(args[4]) for margin in (padding, padding)]
        padded = F.pad(args[0], margins)
        return func(padded, *args[1:4], 0, *args[5:], **kwargs)


class Without(Respelling):
    """Zeros for one operand of one sum or concat: the ``number``-th of its kind."""

    def __init__(self, functions: set[Any], number: int, operands: set[int]) -> None:
        super().__init__()
        self.functions = functions
        self.left = number
        self.operands = operands

    def respelled(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if func not in self.functions:
            return NotImplemented
        self.left -= 1
        return super().respelled(func, args, kwargs) if self.left == -1 else NotImplemented

    def _emptied(self, tensors: list[Tensor]) -> list[Tensor]:
        return [torch.zeros_like(t) if place in self.operands else t for place, t in enumerate(tensors)]

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.add(*self._emptied([a, b]))

    def concat(self, tensors: list[Tensor], axis: int) -> Tensor:
        return torch.cat(self._emptied(tensors), axis)


class Reassociated(TorchFunctionMode):
    """``a + (b + c)`` for ``(a + b) + c`` and the reverse, wherever the inner sum feeds the outer one alone.

    Who reads an inner sum is known only afterwards, so `watch` runs the model once to see.
    """

    def __init__(self) -> None:
        super().__init__()
        self.places = 0
        self._alone: set[int] | None = None  # numbers of the sums that one other call reads, and nobody else
        self._parts: dict[int, tuple[int, Tensor, Tensor]] = {}  # id of a sum -> its number and its operands
        self._readers: dict[int, int] = {}
        self._kept: list[Tensor] = []  # so that no sum's identity is used again

    def watch(self, run: Callable[[], Any]) -> None:
        with self:
            run()
        self._alone = {number for key, (number, _, _) in self._parts.items() if self._readers.get(key) == 1}
        self._parts, self._kept = {}, []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if type(func) is MethodWrapperType:  # a property: shape, dtype
            return func(*args, **(kwargs or {}))
        for argument in tree_leaves((args, kwargs)):
            if isinstance(argument, Tensor):
                self._readers[id(argument)] = self._readers.get(id(argument), 0) + 1
        if func not in SUMS or len(args) != 2 or kwargs or not all(is_data(argument) for argument in args):
            return func(*args, **(kwargs or {}))
        result = self._summed(*args)
        self._parts[id(result)] = (len(self._parts), *args)
        self._readers[id(result)] = 0  # another tensor, gone by now, may have had this identity
        self._kept.append(result)
        return result

    def _summed(self, a: Tensor, b: Tensor) -> Tensor:
        for inner, other, on_the_left in ((a, b, True), (b, a, False)):
            number, first, second = self._parts.get(id(inner), (-1, a, b))
            if self._alone is not None and number in self._alone:
                self.places += 1
                return (
                    torch.add(first, torch.add(second, other))
                    if on_the_left
                    else torch.add(torch.add(other, first), second)
                )
        return torch.add(a, b)


class Under(nn.Module):
    """Runs a model under a function mode."""

    def __init__(self, mode: TorchFunctionMode, model: nn.Module) -> None:
        super().__init__()
        self._held = (mode,)  # what a module holds is put back after a trace, and with it what a mode has counted
        self.model = model

    @property
    def mode(self) -> Any:
        return self._held[0]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with self.mode:
            return self.model(*args, **kwargs)
