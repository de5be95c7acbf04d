"""Sizes that a forward uses as data: expressions in other sizes where traces at other sizes bear them out, assertions
where they do not."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import combinations_with_replacement
from typing import Any

import torch
from torch import fx

from skipgraph.capture.trees import map_tensors, tensors

Trace = Callable[[Any], fx.Graph]
Dimension = tuple[int, int]  # position of a node in its graph, axis

_STEPS = (32, 16, 64, 1)  # networks halve their input up to five times
_CEILINGS = (2, 4, 7, 8, 14, 16, 32)


@dataclass(slots=True)
class _Symbol:
    """One size of the inputs, at every place where it stands."""

    places: list[tuple[int, int]]  # number of the input tensor, axis
    size: int
    graphs: list[fx.Graph] = field(default_factory=list)
    tried: int = 0  # the size of the first of these graphs


@dataclass(slots=True, frozen=True)
class _Fit:
    """``(product of dimensions · numerator + offset) // denominator``."""

    dimensions: tuple[Dimension, ...]
    numerator: int = 1
    denominator: int = 1
    offset: int = 0

    def value(self, nodes: list[fx.Node]) -> int:
        product = self.numerator
        for place, axis in self.dimensions:
            product *= nodes[place].meta["shape"][axis]
        return (product + self.offset) // self.denominator

    def emit(self, graph: fx.Graph, nodes: list[fx.Node]) -> fx.Node:
        """Write the expression into ``graph`` at its insertion point."""
        terms = [graph.call_method("size", (nodes[place], axis)) for place, axis in self.dimensions]
        result = terms[0]
        for term in terms[1:]:
            result = graph.call_function(operator.mul, (result, term))
        for function, number, neutral in (
            (operator.mul, self.numerator, 1),
            (operator.add, self.offset, 0),
            (operator.floordiv, self.denominator, 1),
        ):
            if number != neutral:
                result = graph.call_function(function, (result, number))
        return result


def generalise(graph: fx.Graph, inputs: Any, trace: Trace) -> tuple[str, ...]:
    """Make ``graph`` run at other sizes of its inputs, in place.

    Parameters
    ----------
    graph : torch.fx.Graph
        Traced at the sizes of ``inputs``; tensor nodes carry ``meta["shape"]``.
    inputs : tree of tensors
    trace : callable
        Traces the same forward with other inputs; may raise.

    Returns
    -------
    tuple of str
        The assertions that were put in for sizes that cannot be carried over.
    """
    nodes = list(graph.nodes)
    free, fixed = [], []
    for symbol in _symbols(inputs):
        symbol.graphs = _traces(symbol, inputs, trace, nodes)
        (free if symbol.graphs else fixed).append(symbol)
    while True:
        variants = [list(other.nodes) for symbol in free for other in symbol.graphs]
        joint = _joint(free, inputs, trace, nodes) if len(free) > 1 else None
        fits, culprits = _fits(nodes, free, variants, joint)
        if not culprits:
            break
        fixed += [symbol for symbol in free if symbol in culprits]
        free = [symbol for symbol in free if symbol not in culprits]
    _rewrite(graph, nodes, fits)
    return _assert_sizes(graph, nodes, fixed)


# -- traces at other sizes -------------------------------------------------------------------------------------------


def _symbols(inputs: Any) -> list[_Symbol]:
    """The batch, then the other sizes of the inputs; equal sizes on equal axes go together."""
    found: dict[tuple[int, int], _Symbol] = {}
    for number, tensor in enumerate(tensors(inputs)):
        for axis, size in enumerate(tensor.shape):
            # Two spatial axes of one size may have to stay equal: they are varied together.
            key = (min(axis, 2), size)
            found.setdefault(key, _Symbol([], size)).places.append((number, axis))
    return sorted(found.values(), key=lambda symbol: symbol.places[0][1])


def _resized(inputs: Any, changes: list[tuple[_Symbol, int]]) -> Any:
    sizes = {place: size for symbol, size in changes for place in symbol.places}
    numbers = {id(tensor): number for number, tensor in enumerate(tensors(inputs))}

    def resized(tensor: torch.Tensor) -> torch.Tensor:
        number = numbers[id(tensor)]
        shape = [sizes.get((number, axis), size) for axis, size in enumerate(tensor.shape)]
        return torch.empty(shape, dtype=tensor.dtype, device="meta")

    return map_tensors(resized, inputs)


def _candidates(symbol: _Symbol) -> Iterator[tuple[int, int]]:
    """Pairs of other sizes to try: one to fit, one to check."""
    if symbol.places[0][1] == 0:
        yield symbol.size + 1, symbol.size + 3
    else:
        for step in _STEPS:
            if step <= symbol.size:
                yield symbol.size + step, symbol.size + 2 * step
        if symbol.size > 3:
            yield symbol.size - 1, symbol.size - 2


def _traces(symbol: _Symbol, inputs: Any, trace: Trace, nodes: list[fx.Node]) -> list[fx.Graph]:
    """Graphs of the same structure at two other sizes, or none."""
    for sizes in _candidates(symbol):
        try:
            graphs = [trace(_resized(inputs, [(symbol, size)])) for size in sizes]
        except Exception:  # noqa: S112 - the model itself does not run at this size: try another
            continue
        if all(_same_calls(nodes, list(graph.nodes)) for graph in graphs):
            symbol.tried = sizes[0]
            return graphs
    return []


def _joint(free: list[_Symbol], inputs: Any, trace: Trace, nodes: list[fx.Node]) -> list[fx.Node] | None:
    """All free sizes changed at once: the check that products of sizes were told apart rightly."""
    changes = [(symbol, symbol.tried) for symbol in free]
    try:
        others = list(trace(_resized(inputs, changes)).nodes)
    except Exception:
        return None
    return others if _same_calls(nodes, others) else None


def _same_calls(nodes: list[fx.Node], others: list[fx.Node]) -> bool:
    if len(nodes) != len(others):
        return False
    place = {node: number for number, node in enumerate(nodes)}
    place |= {node: number for number, node in enumerate(others)}
    return all(
        (a.op, a.target) == (b.op, b.target)
        and [place[n] for n in a.all_input_nodes] == [place[n] for n in b.all_input_nodes]
        and (a.op != "get_attr" or a.meta.get("shape") == b.meta.get("shape"))
        for a, b in zip(nodes, others, strict=True)
    )


# -- fits ------------------------------------------------------------------------------------------------------------

Path = tuple[Any, ...]


def _leaves(tree: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """The plain values in arguments, with their places."""
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


def _fits(
    nodes: list[fx.Node], free: list[_Symbol], variants: list[list[fx.Node]], joint: list[fx.Node] | None
) -> tuple[dict[int, dict[Path, _Fit]], list[_Symbol]]:
    """An expression for every value that moves with a size; the symbols that one could not be found for."""
    fits: dict[int, dict[Path, _Fit]] = {}
    traces = [nodes, *variants, *([joint] if joint else [])]
    owners = [symbol for symbol in free for _ in symbol.graphs]
    inputs = [
        (place, axis)
        for place, node in enumerate(nodes)
        if "shape" in node.meta and _is_input(node)
        for axis in range(len(node.meta["shape"]))
    ]
    place_of = {node: place for place, node in enumerate(nodes)}
    for place, node in enumerate(nodes):
        columns = [list(_leaves((trace[place].args, trace[place].kwargs))) for trace in traces]
        for leaf, (path, value) in enumerate(columns[0]):
            values = [column[leaf][1] if leaf < len(column) else None for column in columns]
            if all(type(other) is type(value) and other == value for other in values):
                continue
            near = [(place_of[n], axis) for n in node.all_input_nodes for axis in range(len(n.meta.get("shape", ())))]
            fit = _fit(values, [*near, *inputs], traces)
            if fit is None:
                moved = [owner for owner, other in zip(owners, values[1:], strict=False) if other != value]
                return {}, moved or free
            fits.setdefault(place, {})[path] = fit
    return fits, []


def _is_input(node: fx.Node) -> bool:
    while node.op == "call_function" and node.target is operator.getitem and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    return node.op == "placeholder"


def _fit(values: list[Any], dimensions: list[Dimension], traces: list[list[fx.Node]]) -> _Fit | None:
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
            if count == 1 and holds(fit := _Fit(chosen, offset=values[0] - product)):
                return fit
        if count == 1:
            for dimension in dimensions:
                for divisor in _CEILINGS:
                    for offset in (0, divisor - 1):
                        if holds(fit := _Fit((dimension,), denominator=divisor, offset=offset)):
                            return fit
        if len(dimensions) > 12:
            dimensions = dimensions[:12]
    return None


# -- the graph with its expressions and assertions -------------------------------------------------------------------


def _rewrite(graph: fx.Graph, nodes: list[fx.Node], fits: dict[int, dict[Path, _Fit]]) -> None:
    for place, by_path in fits.items():
        node = nodes[place]
        with graph.inserting_before(node):
            made = {path: fit.emit(graph, nodes) for path, fit in by_path.items()}
        args, kwargs = _replaced((node.args, node.kwargs), (), made)
        node.args, node.kwargs = tuple(args), dict(kwargs)


def _replaced(tree: Any, path: Path, made: dict[Path, fx.Node]) -> Any:
    if path in made:
        return made[path]
    if isinstance(tree, (list, tuple)):
        values = [_replaced(value, (*path, place), made) for place, value in enumerate(tree)]
        return values if isinstance(tree, list) else tuple(values)
    if isinstance(tree, dict):
        return {key: _replaced(value, (*path, key), made) for key, value in tree.items()}
    if isinstance(tree, slice):
        return slice(*_replaced((tree.start, tree.stop, tree.step), (*path, slice), made))
    return tree


def _assert_sizes(graph: fx.Graph, nodes: list[fx.Node], fixed: list[_Symbol]) -> tuple[str, ...]:
    """Assert at the start what was traced of every size that cannot be carried over."""
    tensors_in = [node for node in nodes if "shape" in node.meta and _is_input(node)]
    texts = []
    after = tensors_in[-1] if tensors_in else None
    for symbol in fixed:
        for number, axis in symbol.places:
            node = tensors_in[number]
            text = f"{node.name}.size({axis}) == {symbol.size}"
            texts.append(text)
            assert after is not None
            with graph.inserting_after(after):
                size = graph.call_method("size", (node, axis))
            with graph.inserting_after(size):
                equal = graph.call_function(operator.eq, (size, symbol.size))
            with graph.inserting_after(equal):
                message = (
                    f"captured at {text}, and this size cannot be carried over: capture again at the size you need"
                )
                after = graph.call_function(torch._assert, (equal, message))
    return tuple(texts)
