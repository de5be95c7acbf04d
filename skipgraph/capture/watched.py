"""Sizes that know where they come from: numbers that remember their expression and what they were compared with."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import fx

SizeOf = Callable[[fx.Node, int], int]

_DEEPEST = 40  # operations in an expression; a number that took more is a plain one


@dataclass(frozen=True, slots=True, eq=False)
class Extent:
    """The size of one axis of the tensor that ``node`` makes."""

    node: fx.Node
    axis: int
    depth: ClassVar[int] = 0

    def value(self, size_of: SizeOf) -> int:
        """What it is, where ``size_of`` gives the sizes."""
        return size_of(self.node, self.axis)

    def extents(self) -> Iterator[Extent]:
        """All sizes that it is made of."""
        yield self

    def __str__(self) -> str:
        return f"{self.node.name}.size({self.axis})"


@dataclass(frozen=True, slots=True, eq=False)
class Applied:
    """A function of sizes and numbers."""

    function: Callable[..., Any]
    operands: tuple[Any, ...]  # expressions and plain numbers
    depth: int

    def value(self, size_of: SizeOf) -> Any:
        """What it is, where ``size_of`` gives the sizes."""
        return self.function(*(o.value(size_of) if isinstance(o, (Extent, Applied)) else o for o in self.operands))

    def extents(self) -> Iterator[Extent]:
        """All sizes that it is made of."""
        for operand in self.operands:
            if isinstance(operand, (Extent, Applied)):
                yield from operand.extents()

    def __str__(self) -> str:
        texts = [f"({o})" if isinstance(o, Applied) else str(o) for o in self.operands]
        symbol = _SYMBOLS.get(self.function)
        return f" {symbol} ".join(texts) if symbol else f"{self.function.__name__}({', '.join(texts)})"


Expression = Extent | Applied


def applied(function: Callable[..., Any], *operands: Any) -> Applied:
    """``function`` of expressions and plain numbers."""
    return Applied(function, operands, 1 + max((getattr(operand, "depth", 0) for operand in operands), default=0))


@dataclass(slots=True, eq=False)
class Watch:
    """What the sizes of one forward were compared with.

    ``inside`` counts the calls that are being run: what happens in them is their own business. A negative number ends
    the watch; numbers that outlive it (in somebody's cache) compare in silence.
    """

    inside: int = 0
    comparisons: list[Applied] = field(default_factory=list)

    def record(self, function: Callable[..., Any], left: Any, right: Any, outcome: bool) -> None:
        """Note a comparison that the code's way may depend on, or its opposite: the one that is true."""
        if not self.inside:
            true = function if outcome else _OPPOSITES[function]
            self.comparisons.append(applied(true, _operand(left), _operand(right)))


def _operand(number: Any) -> Any:
    return number.expression if isinstance(number, (WatchedInt, WatchedFloat)) else number


class WatchedInt(int):
    """An integer made of sizes."""

    expression: Expression
    watch: Watch

    __hash__ = int.__hash__

    def __divmod__(self, other: Any) -> tuple[Any, Any]:
        return self // other, self % other


class WatchedFloat(float):
    """A fraction made of sizes."""

    expression: Expression
    watch: Watch

    __hash__ = float.__hash__


def watched(number: Any, expression: Expression, watch: Watch) -> Any:
    """``number``, knowing that it is ``expression``."""
    if expression.depth > _DEEPEST or type(number) not in (int, float):
        return number
    result = WatchedInt(number) if type(number) is int else WatchedFloat(number)
    result.expression, result.watch = expression, watch
    return result


def plain(number: Any) -> Any:
    """The same number without its memory; anything else as it is."""
    if isinstance(number, WatchedInt):
        return int.__int__(number)
    return float.__float__(number) if isinstance(number, WatchedFloat) else number


_SYMBOLS: dict[Callable[..., Any], str] = {
    operator.add: "+", operator.sub: "-", operator.mul: "*", operator.truediv: "/", operator.floordiv: "//",
    operator.mod: "%", operator.pow: "**", operator.eq: "==", operator.ne: "!=", operator.lt: "<", operator.le: "<=",
    operator.gt: ">", operator.ge: ">=",
}  # fmt: skip
_OPPOSITES: dict[Callable[..., Any], Callable[..., Any]] = {
    operator.eq: operator.ne, operator.ne: operator.eq, operator.lt: operator.ge, operator.ge: operator.lt,
    operator.gt: operator.le, operator.le: operator.gt,
}  # fmt: skip
_BINARY = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow")
_UNARY: dict[str, Callable[..., Any]] = {
    "__neg__": operator.neg, "__abs__": operator.abs, "__ceil__": math.ceil, "__floor__": math.floor,
    "__trunc__": math.trunc, "__round__": round,
}  # fmt: skip
_COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")


def _arithmetic(base: type, name: str, function: Callable[..., Any], *, reflected: bool = False) -> Any:
    compute = getattr(base, name)

    def method(self: Any, *others: Any) -> Any:
        if not all(isinstance(other, (int, float)) for other in others):
            return compute(self, *others)
        operands = (*others, self) if reflected else (self, *others)
        result = function(*map(plain, operands))
        return watched(result, applied(function, *map(_operand, operands)), self.watch)

    return method


def _comparison(base: type, name: str, function: Callable[..., Any]) -> Any:
    compute = getattr(base, name)

    def method(self: Any, other: Any) -> Any:
        if not isinstance(other, (int, float)):
            return compute(self, other)
        outcome = function(plain(self), plain(other))
        self.watch.record(function, self, other, outcome)
        return outcome

    return method


def _truth(base: type) -> Any:
    def method(self: Any) -> bool:
        outcome: bool = base.__bool__(self)  # type: ignore[attr-defined]
        self.watch.record(operator.ne, self, 0, outcome)
        return outcome

    return method


for _kind, _base in ((WatchedInt, int), (WatchedFloat, float)):
    for _name in _BINARY:
        _function = getattr(operator, _name)
        setattr(_kind, f"__{_name}__", _arithmetic(_base, f"__{_name}__", _function))
        setattr(_kind, f"__r{_name}__", _arithmetic(_base, f"__r{_name}__", _function, reflected=True))
    for _name, _function in _UNARY.items():
        setattr(_kind, _name, _arithmetic(_base, _name, _function))
    for _name in _COMPARISONS:
        setattr(_kind, f"__{_name}__", _comparison(_base, f"__{_name}__", getattr(operator, _name)))
    setattr(_kind, "__bool__", _truth(_base))  # noqa: B010
