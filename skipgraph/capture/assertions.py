"""Expressions and assertions of sizes, written into a graph."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from skipgraph.capture.fits import Fits, Guard, Path, is_input
from skipgraph.capture.watched import Applied, Expression, Extent, plain

if TYPE_CHECKING:
    from skipgraph.capture.calls import ScopedGraph
    from skipgraph.capture.sizes import Symbol

_REMEDY = "and other sizes cannot be carried over: capture again at the size you need"


class Writer:
    """Writes expressions into ``graph``, each once; ``twin`` leads from the nodes that they speak of to its own."""

    def __init__(self, graph: ScopedGraph, twin: dict[fx.Node, fx.Node]) -> None:
        self.graph = graph
        self._twin = twin
        self._written: dict[Any, fx.Node] = {}

    def write(self, nodes: list[fx.Node], fits: Fits, guards: list[Guard]) -> None:
        """Put ``fits`` in the place of the numbers that were traced, and assert ``guards`` as soon as may be."""
        first = next(place for place, node in enumerate(nodes) if node.op != "placeholder")
        due: dict[int, list[Guard]] = {}
        for guard in guards:
            due.setdefault(max(first, guard.after + 1), []).append(guard)
        for place, original in enumerate(nodes):
            node = self._twin[original]
            self.graph.scope = node.meta["scope"]
            with self.graph.inserting_before(node):
                for guard in due.get(place, []):
                    value = self._node(guard.comparison)
                    self.graph.call_function(torch._assert, (value, f"captured for {guard.text}, {_REMEDY}"))
                made = {path: self._node(expression) for path, expression in fits.get(place, {}).items()}
            args, kwargs = _replaced((node.args, node.kwargs), (), made)
            node.args, node.kwargs = tuple(args), dict(kwargs)
        self.graph.scope = ()

    def _node(self, expression: Expression) -> fx.Node:
        """The node that computes ``expression``, before the graph's insertion point."""
        if isinstance(expression, Extent):
            key: Any = (expression.node, expression.axis)
            if key not in self._written:
                self._written[key] = self.graph.call_method("size", (self._twin[expression.node], expression.axis))
            return self._written[key]
        operands = tuple(self._node(o) if isinstance(o, (Extent, Applied)) else o for o in expression.operands)
        key = (expression.function, *((type(operand), operand) for operand in operands))
        if key not in self._written:
            self._written[key] = self.graph.call_function(expression.function, operands)
        return self._written[key]


def _replaced(tree: Any, path: Path, made: dict[Path, fx.Node]) -> Any:
    """Arguments with nodes in the places of ``made``, and all other numbers plain."""
    if path in made:
        return made[path]
    if isinstance(tree, (list, tuple)):
        values = [_replaced(value, (*path, place), made) for place, value in enumerate(tree)]
        return values if isinstance(tree, list) else tuple(values)
    if isinstance(tree, dict):
        return {key: _replaced(value, (*path, key), made) for key, value in tree.items()}
    if isinstance(tree, slice):
        return slice(*_replaced((tree.start, tree.stop, tree.step), (*path, slice), made))
    return plain(tree)


def assert_sizes(graph: fx.Graph, nodes: list[fx.Node], free: list[Symbol], fixed: list[Symbol]) -> tuple[str, ...]:
    """Assert at the start what was traced of every size that is fixed, moves by steps, or moves with another one.

    Returns
    -------
    tuple of str
        What was asserted.
    """
    inputs = [node for node in nodes if "shape" in node.meta and is_input(node)]
    if not inputs:
        return ()
    checks: list[tuple[fx.Node, int, int, Any]] = []  # input, axis, step, wanted number or (input, axis)
    for symbol in fixed:
        checks += [(inputs[number], axis, 1, symbol.size) for number, axis in symbol.places]
    for symbol in free:
        (number, axis), *rest = symbol.places
        checks += [(inputs[other], its, 1, (inputs[number], axis)) for other, its in rest]
        if symbol.step > 1:
            checks.append((inputs[number], axis, symbol.step, symbol.size % symbol.step))
    following = inputs[-1].next
    texts = []
    with graph.inserting_before(following):
        for node, axis, step, wanted in checks:
            text = f"{node.name}.size({axis})"
            value = graph.call_method("size", (node, axis))
            if step > 1:
                text, value = f"{text} % {step}", graph.call_function(operator.mod, (value, step))
            if isinstance(wanted, tuple):
                text, wanted = f"{text} == {wanted[0].name}.size({wanted[1]})", graph.call_method("size", wanted)
            else:
                text = f"{text} == {wanted}"
            equal = graph.call_function(operator.eq, (value, wanted))
            graph.call_function(torch._assert, (equal, f"captured for {text}, {_REMEDY}"))
            texts.append(text)
    return tuple(texts)
