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

# Networks halve their input up to five times: sizes that differ by a multiple of this take the same way through most.
_STEP = 32
_CEILINGS = (2, 4, 7, 8, 14, 16, 32)


@dataclass(slots=True, eq=False)
class _Symbol:
    """One size of the inputs, at every place where it stands.

    ``graphs`` are traces at the sizes ``tried``. Where an odd size takes another way, ``step`` says by what multiple
    the size may differ.
    """

    places: list[tuple[int, int]]  # number of the input tensor, axis
    size: int
    graphs: list[fx.Graph] = field(default_factory=list)
    tried: tuple[int, ...] = ()
    step: int = 1

    @property
    def is_batch(self) -> bool:
        return self.places[0][1] == 0


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
    free, fixed = _probed(inputs, trace, nodes)
    while True:
        joint = _joint(free, inputs, trace)
        if joint is not None and not _same_calls(nodes, joint):
            spatial = [symbol for symbol in free if not symbol.is_batch]
            culprits: list[_Symbol] = spatial or free
            fits: dict[int, dict[Path, _Fit]] = {}
        else:
            fits, culprits = _fits(nodes, free, joint)
        if not culprits:
            break
        for symbol in culprits:
            # What an odd size upsets may still hold at multiples of the step.
            if symbol.step == 1 and not symbol.is_batch and len(symbol.graphs) > 2:
                symbol.graphs, symbol.tried, symbol.step = symbol.graphs[:2], symbol.tried[:2], _STEP
            else:
                free.remove(symbol)
                fixed.append(symbol)
    _rewrite(graph, nodes, fits)
    return _assert_sizes(graph, nodes, free, fixed)


# -- traces at other sizes -------------------------------------------------------------------------------------------


def _probed(inputs: Any, trace: Trace, nodes: list[fx.Node]) -> tuple[list[_Symbol], list[_Symbol]]:
    """The sizes that can be varied, with traces, and those that cannot.

    Sizes that cannot be varied one by one are tried together where they are equal: height and width of a model that
    wants squares.
    """
    free, fixed, stubborn = [], [], []
    for symbol in _symbols(inputs):
        runs = _probe(symbol, inputs, trace, nodes)
        (free if symbol.graphs else fixed if runs else stubborn).append(symbol)
    together: dict[int, _Symbol] = {}
    for symbol in stubborn:
        together.setdefault(symbol.size, _Symbol([], symbol.size)).places.extend(symbol.places)
    for symbol in together.values():
        if len(symbol.places) > 1:
            _probe(symbol, inputs, trace, nodes)
        (free if symbol.graphs else fixed).append(symbol)
    return free, fixed


def _symbols(inputs: Any) -> list[_Symbol]:
    """The batch, then the other sizes of the inputs; equal sizes of several inputs on one axis go together."""
    found: dict[tuple[int, int], _Symbol] = {}
    for number, tensor in enumerate(tensors(inputs)):
        for axis, size in enumerate(tensor.shape):
            found.setdefault((axis, size), _Symbol([], size)).places.append((number, axis))
    return sorted(found.values(), key=lambda symbol: symbol.places[0][1])


def _candidates(symbol: _Symbol) -> list[tuple[int, ...]]:
    """Other sizes to trace at: two by which expressions are found and checked, then rougher ones that the model need
    not run at; several such sets."""
    size = symbol.size
    if symbol.is_batch:
        return [(size + 1, size + 3)]
    if size >= _STEP:
        half = _STEP // 2
        return [(size + _STEP, size + 2 * _STEP, size + half, size + 7), (size - _STEP, size - half, size - 7)]
    return [(size + 2, size + 4, size + 3), (2 * size, 3 * size, 2 * size + 1), (size - 1, size - 2, size - 3)]


def _probe(symbol: _Symbol, inputs: Any, trace: Trace, nodes: list[fx.Node]) -> bool:
    """Fill in the traces of ``symbol`` that have the structure of ``nodes``; whether the model runs at other sizes."""
    for sizes in _candidates(symbol):
        found: list[fx.Graph | None] = []
        for size in sizes:
            try:
                found.append(trace(_resized(inputs, dict.fromkeys(symbol.places, size))))
            except Exception:
                found.append(None)  # the model itself does not run at this size
        if found[0] is None or found[1] is None:
            continue
        if all(_same_calls(nodes, list(graph.nodes)) for graph in found[:2] if graph is not None):
            run = [(graph, size) for graph, size in zip(found, sizes, strict=True) if graph is not None]
            if not all(_same_calls(nodes, list(graph.nodes)) for graph, _ in run):
                run, symbol.step = run[:2], _STEP
            symbol.graphs, symbol.tried = [graph for graph, _ in run], tuple(size for _, size in run)
        return True
    return False


def _resized(inputs: Any, sizes: dict[tuple[int, int], int]) -> Any:
    numbers = {id(tensor): number for number, tensor in enumerate(tensors(inputs))}

    def resized(tensor: torch.Tensor) -> torch.Tensor:
        number = numbers[id(tensor)]
        shape = [sizes.get((number, axis), size) for axis, size in enumerate(tensor.shape)]
        return torch.empty(shape, dtype=tensor.dtype, device="meta")

    return map_tensors(resized, inputs)


def _joint(free: list[_Symbol], inputs: Any, trace: Trace) -> list[fx.Node] | None:
    """All free sizes changed at once: the check that products of sizes were told apart rightly."""
    if len(free) < 2:
        return None
    sizes = {place: symbol.tried[number % 2] for number, symbol in enumerate(free) for place in symbol.places}
    try:
        return list(trace(_resized(inputs, sizes)).nodes)
    except Exception:
        return None


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
    nodes: list[fx.Node], free: list[_Symbol], joint: list[fx.Node] | None
) -> tuple[dict[int, dict[Path, _Fit]], list[_Symbol]]:
    """An expression for every value that moves with a size; the symbols that one could not be found for."""
    fits: dict[int, dict[Path, _Fit]] = {}
    variants = [list(graph.nodes) for symbol in free for graph in symbol.graphs]
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
                moved = dict.fromkeys(o for o, other in zip(owners, values[1:], strict=False) if other != value)
                return {}, list(moved) or free
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
            if count == 1 and (line := _line(values, chosen, traces)) is not None and holds(line):
                return line
        if count == 1:
            for dimension in dimensions:
                for divisor in _CEILINGS:
                    for offset in (0, divisor - 1):
                        if holds(fit := _Fit((dimension,), denominator=divisor, offset=offset)):
                            return fit
        if len(dimensions) > 12:
            dimensions = dimensions[:12]
    return None


def _line(values: list[int], dimension: tuple[Dimension, ...], traces: list[list[fx.Node]]) -> _Fit | None:
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


def _assert_sizes(graph: fx.Graph, nodes: list[fx.Node], free: list[_Symbol], fixed: list[_Symbol]) -> tuple[str, ...]:
    """Assert at the start what was traced of every size that cannot be carried over, or by steps alone."""
    inputs = [node for node in nodes if "shape" in node.meta and _is_input(node)]
    texts = []
    after = inputs[-1] if inputs else None
    limited = [symbol for symbol in free if symbol.step > 1]
    for symbol in [*fixed, *limited]:
        for number, axis in symbol.places:
            node, wanted = inputs[number], symbol.size
            text = f"{node.name}.size({axis}) == {wanted}"
            if symbol.step > 1 and symbol in limited:
                wanted %= symbol.step
                text = f"{node.name}.size({axis}) % {symbol.step} == {wanted}"
            texts.append(text)
            assert after is not None
            after = _assert_size(graph, after, node, axis, wanted, symbol.step if symbol in limited else 1, text)
    return tuple(texts)


def _assert_size(
    graph: fx.Graph, after: fx.Node, node: fx.Node, axis: int, wanted: int, step: int, text: str
) -> fx.Node:
    message = f"captured for {text}, and other sizes cannot be carried over: capture again at the size you need"
    with graph.inserting_after(after):
        value = graph.call_method("size", (node, axis))
    if step > 1:
        with graph.inserting_after(value):
            value = graph.call_function(operator.mod, (value, step))
    with graph.inserting_after(value):
        equal = graph.call_function(operator.eq, (value, wanted))
    with graph.inserting_after(equal):
        return graph.call_function(torch._assert, (equal, message))
