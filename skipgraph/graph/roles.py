"""Axes, resolutions and slices of every node."""

from __future__ import annotations

from typing import Any

from skipgraph.capture.program import Operator, Value
from skipgraph.graph.types import SkipGraph
from skipgraph.ops import Facts, Kind
from skipgraph.ops.axes import BATCH, ROLE_NAMES, Axes, AxisRoles, same
from skipgraph.ops.elementwise import reduced_axes
from skipgraph.ops.merge import concat_axis
from skipgraph.ops.shape import slice_axis, slice_range

# How far two numbers of positions may differ and still be one resolution: crops and class tokens.
SAME_RESOLUTION = 1.5

# These bring tensors of their own sizes together, or read another: no change of their own to the resolution.
_KEEPS = {
    Kind.INPUT, Kind.PAD, Kind.CREATE, Kind.SUM, Kind.DIFFERENCE, Kind.PRODUCT, Kind.QUOTIENT, Kind.CONCAT, Kind.STACK,
    Kind.MATMUL, Kind.ATTENTION, Kind.ATTENTION_LAYER, Kind.EMBEDDING, Kind.VIEW, Kind.EXPAND, Kind.LINEAR_MAP,
    Kind.SCATTER,
}  # fmt: skip

# Repeating one position is a broadcast, whichever operator does it.
_BROADCASTS = {Kind.RESAMPLE, Kind.INDEX}

_WORKS_ALONG = {Kind.SLICE, Kind.CONCAT, Kind.STACK, Kind.REDUCE}


class Resolutions:
    """Follows the axes of every value in order of execution, and decides at the end what they mean."""

    def __init__(self) -> None:
        self._roles = AxisRoles()
        self._axes: dict[int, Axes] = {}  # value index -> axes
        self._node_axes: dict[str, Axes] = {}
        self._works_along: dict[str, tuple[int | None, tuple[int, int, int] | None]] = {}
        self._mixes: set[str] = set()
        self._alike: list[tuple[str, Value]] = []

    def add_input(self, node: str, value: Value) -> None:
        """A model input: its first axis is the batch, unless something says otherwise."""
        axes = self._roles.fresh(value.shape)
        if len(axes) > 1:
            self._roles.witness(axes[0], BATCH, weak=True)
        self._axes[value.index] = self._node_axes[node] = axes

    def _of(self, value: Value) -> Axes:
        axes = self._axes.get(value.index)
        if axes is None:
            axes = self._axes[value.index] = self._roles.fresh(value.shape)
            self._roles.constants.add(value.index)
        return axes

    def add(self, node: str, operator: Operator, facts: Facts) -> None:
        """One operator: the axes of its results, and along which axis it works."""
        operands = [self._of(operand) for operand in operator.inputs]
        value = operator.outputs[0]
        axes = (facts.axes or same)(self._roles, operator, operands)
        self._node_axes[node] = axes
        self._axes[value.index] = axes
        for output in operator.outputs[1:]:
            self._axes[output.index] = axes if output.shape == value.shape else self._roles.fresh(output.shape)
        if facts.kind is Kind.MATMUL:
            self._mixes.add(node)
        if facts.kind in _WORKS_ALONG:
            self._works_along[node] = _along(operator, facts, value)

    def add_alike(self, node: str, value: Value) -> None:
        """A step of a fused operator: it has the axes of the whole."""
        self._alike.append((node, value))

    def decide(self, graph: SkipGraph) -> None:
        """Write ``axis``, ``axis_role``, ``slice``, ``positions`` and ``resamples`` into the nodes."""
        self._roles.close()
        for node, value in self._alike:
            self._node_axes[node] = self._axes[value.index]
        nodes, pred = graph._node, graph._pred  # views of them cost more than all the rest here
        for node, axes in self._node_axes.items():
            attributes = nodes[node]
            along = self._works_along.get(node)
            if along is not None:
                axis, attributes["slice"] = along
                attributes["axis"] = axis
                if attributes["kind"] == Kind.CONCAT and axis is not None:
                    attributes["axis_role"] = ROLE_NAMES[self._roles.role(axes[axis])]
            positions = self._roles.positions(axes)
            attributes["positions"] = positions
            producer = min(pred[node], key=lambda source: min(pred[node][source]), default=None)
            # A product with a matrix over positions mixes them, and resamples nothing, however many come out.
            if producer is not None and node not in self._mixes:
                _compare(attributes, nodes[producer]["positions"])


def _along(operator: Operator, facts: Facts, value: Value) -> tuple[int | None, tuple[int, int, int] | None]:
    """The axis that an operator works along, and what a slice takes of it."""
    if facts.kind is Kind.SLICE:
        axis = slice_axis(operator)
        return axis, slice_range(operator, axis, value)
    if facts.kind is Kind.REDUCE:
        reduced = reduced_axes(operator)
        return (reduced[0] if len(reduced) == 1 else None), None
    return concat_axis(operator), None


def _compare(attributes: dict[str, Any], before: int) -> None:
    """Set ``resamples`` from the positions ``before`` and after, and undo what a pad or a crop pretends."""
    kind = Kind(attributes["kind"])
    after = attributes["positions"]
    if kind is Kind.PAD:
        attributes["positions"] = before
        return
    if kind in _KEEPS or (kind in _BROADCASTS and before == 1):
        return
    part = attributes["slice"]
    if kind is Kind.SLICE and (part is None or part[2] == 1):
        return
    changed = max(before, after) > SAME_RESOLUTION * min(before, after)
    attributes["resamples"] = changed
    if kind is Kind.POOL and not changed and "avg" in attributes["op"]:
        attributes["kind"], attributes["layer"] = Kind.LAYER.value, True
