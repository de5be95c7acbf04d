"""Expressions for the numbers that differ between traces at different sizes."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations_with_replacement
from typing import Any

from torch import fx

from skipgraph.capture.watched import Applied, Expression, Extent, applied, plain

Path = tuple[Any, ...]
Fits = dict[int, dict[Path, Expression]]  # position of a node, place in its arguments
Dimension = tuple[int, int]  # position of a node in its graph, axis
Nodes = list[fx.Node]

_CEILINGS = (2, 4, 7, 8, 14, 16, 32)
_MOST_DIMENSIONS = 12


@dataclass(frozen=True, slots=True)
class Guard:
    """A comparison that must hold; ``after`` is the position of the last node that it needs."""

    comparison: Applied
    after: int

    @property
    def text(self) -> str:
        """The comparison in words for the user."""
        return str(self.comparison)


def leaves(node: fx.Node) -> Iterator[tuple[Path, Any]]:
    """The plain values in the arguments of a node, with their places."""
    yield from _leaves((node.args, node.kwargs), ())


def _leaves(tree: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    if isinstance(tree, (list, tuple)):
        for place, value in enumerate(tree):
            yield from _leaves(value, (*path, place))
    elif isinstance(tree, dict):
        for key, value in tree.items():
            yield from _leaves(value, (*path, key))
    elif isinstance(tree, slice):
        yield from _leaves((tree.start, tree.stop, tree.step), (*path, slice))
    elif not isinstance(tree, fx.Node):
        yield path, tree


def find_fits(nodes: Nodes, others: list[Nodes]) -> tuple[Fits, list[int]]:
    """An expression for every value that is not the same in all traces.

    Parameters
    ----------
    nodes : list of Node
        The first trace.
    others : list of list of Node
        Traces of the same calls at other sizes.

    Returns
    -------
    fits : dict
        By position and place in the arguments.
    moved : list of int
        Empty, or the ``others`` in which a value differs that no expression was found for.
    """
    fits: Fits = {}
    traces = [nodes, *others]
    place_of = {node: place for place, node in enumerate(nodes)}
    inputs = [
        (place, axis)
        for place, node in enumerate(nodes)
        if "shape" in node.meta and is_input(node)
        for axis in range(len(node.meta["shape"]))
    ]
    for place, node in enumerate(nodes):
        columns = [dict(leaves(trace[place])) for trace in traces]
        if any(column.keys() != columns[0].keys() for column in columns):
            return {}, [number for number, one in enumerate(columns[1:]) if one.keys() != columns[0].keys()]
        for path, watched in columns[0].items():
            values = [plain(column[path]) for column in columns]
            if all(type(other) is type(values[0]) and other == values[0] for other in values):
                continue
            own = getattr(watched, "expression", None)
            if own is not None and _evaluated(own, place_of, traces) == values:
                fits.setdefault(place, {})[path] = own
                continue
            near = [(place_of[n], axis) for n in node.all_input_nodes for axis in range(len(n.meta.get("shape", ())))]
            fit = _fit([_whole(value) for value in values], [*near, *inputs], traces)
            if fit is None:
                return {}, [number for number, other in enumerate(values[1:]) if other != values[0]]
            found = fit.expression(nodes)
            fits.setdefault(place, {})[path] = applied(float, found) if type(values[0]) is float else found
    return fits, []


def find_guards(nodes: Nodes, others: list[Nodes], comparisons: list[Applied]) -> list[Guard]:
    """The comparisons whose outcome the calls may hang on.

    Those of sizes that never move need no guard. Those that came out otherwise in one of ``others`` need none either:
    that trace made the same calls all the same.
    """
    traces = [nodes, *others]
    place_of = {node: place for place, node in enumerate(nodes)}
    guards: dict[str, Guard] = {}
    for comparison in comparisons:
        extents = list(comparison.extents())
        outcomes = _evaluated(comparison, place_of, traces)
        if outcomes is None or not all(outcomes):
            continue
        places = [place_of[extent.node] for extent in extents]
        sizes = [
            [trace[place].meta["shape"][e.axis] for trace in traces] for place, e in zip(places, extents, strict=True)
        ]
        if any(len(set(row)) > 1 for row in sizes):
            guard = Guard(comparison, max(places))
            guards.setdefault(str(comparison), guard)
    return list(guards.values())


def _evaluated(expression: Expression, place_of: dict[fx.Node, int], traces: list[Nodes]) -> list[Any] | None:
    """What an expression of the first trace is in all of them; None if it is of another graph, or not defined."""
    if any(extent.node not in place_of for extent in expression.extents()):
        return None
    try:
        return [
            expression.value(lambda node, axis, trace=trace: trace[place_of[node]].meta["shape"][axis])  # type: ignore[misc]
            for trace in traces
        ]
    except (ArithmeticError, ValueError):
        return None


def is_input(node: fx.Node) -> bool:
    """Whether a node is an input of the forward, or taken out of one."""
    while node.op == "call_function" and node.target in (operator.getitem, getattr):
        if not isinstance(node.args[0], fx.Node) or "shape" in node.args[0].meta:
            return False  # a part of a tensor
        node = node.args[0]
    return node.op == "placeholder"


# -- numbers that do not say where they come from --------------------------------------------------------------------


def _whole(value: Any) -> Any:
    return int(value) if type(value) is float and value.is_integer() else value


@dataclass(slots=True, frozen=True)
class _Fit:
    """``(product of dimensions · numerator + offset) // denominator``."""

    dimensions: tuple[Dimension, ...]
    numerator: int = 1
    denominator: int = 1
    offset: int = 0

    def value(self, nodes: Nodes) -> int:
        product = self.numerator
        for place, axis in self.dimensions:
            product *= nodes[place].meta["shape"][axis]
        return (product + self.offset) // self.denominator

    def expression(self, nodes: Nodes) -> Expression:
        place, axis = self.dimensions[0]
        result: Expression = Extent(nodes[place], axis)
        for place, axis in self.dimensions[1:]:
            result = applied(operator.mul, result, Extent(nodes[place], axis))
        for function, number, neutral in (
            (operator.mul, self.numerator, 1),
            (operator.add, self.offset, 0),
            (operator.floordiv, self.denominator, 1),
        ):
            if number != neutral:
                result = applied(function, result, number)
        return result


def _fit(values: list[Any], dimensions: list[Dimension], traces: list[Nodes]) -> _Fit | None:
    """The simplest expression in ``dimensions`` that gives ``values`` in all ``traces``."""
    if not all(type(value) is int for value in values):
        return None
    dimensions = list(dict.fromkeys(dimensions))

    def holds(fit: _Fit) -> bool:
        return all(fit.value(trace) == value for trace, value in zip(traces, values, strict=True))

    for count in (1, 2, 3):
        for chosen in combinations_with_replacement(dimensions, count):
            product = _Fit(chosen).value(traces[0])
            if product and values[0] > 0:
                ratio = Fraction(values[0], product)
                if holds(fit := _Fit(chosen, ratio.numerator, ratio.denominator)):
                    return fit
            if count == 1 and (line := _line(values, chosen, traces)) is not None and holds(line):
                return line
        if count == 1:
            for dimension in dimensions:
                for divisor in _CEILINGS:
                    for offset in (0, divisor - 1):
                        if holds(fit := _Fit((dimension,), denominator=divisor, offset=offset)):
                            return fit
        dimensions = dimensions[:_MOST_DIMENSIONS]
    return None


def _line(values: list[int], dimension: tuple[Dimension, ...], traces: list[Nodes]) -> _Fit | None:
    """The straight line through the values over one dimension: what crops and unpadded convolutions leave."""
    at = [_Fit(dimension).value(trace) for trace in traces]
    other = next((place for place, size in enumerate(at) if size != at[0]), None)
    if other is None:
        return None
    slope = Fraction(values[other] - values[0], at[other] - at[0])
    offset = (values[0] - slope * at[0]) * slope.denominator
    return (
        _Fit(dimension, slope.numerator, slope.denominator, int(offset)) if slope and offset.denominator == 1 else None
    )
