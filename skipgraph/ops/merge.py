"""Sums and concatenations: what section 2 of the design calls merges."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skipgraph.ops import Kind, register
from skipgraph.ops.axes import Axes, AxisRoles

if TYPE_CHECKING:
    from skipgraph.capture.program import Operator


def concat_axes(roles: AxisRoles, operator: Operator, operands: list[Axes]) -> Axes:
    """The axes of the operands, and along the concat one atom with the role that they share."""
    shape = operator.outputs[0].shape
    full = [axes for axes in operands if len(axes) == len(shape)]
    place = concat_axis(operator)
    axes = list(roles.broadcast([without(axes, place) for axes in full], shape[:place] + shape[place + 1 :]))
    for other in full[1:]:
        if full[0][place] and other[place]:
            roles.unite(full[0][place][0][1], other[place][0][1])
    axes.insert(place, ((shape[place], full[0][place][0][1] if full[0][place] else roles.new()),))
    return tuple(axes)


def stack_axes(roles: AxisRoles, operator: Operator, operands: list[Axes]) -> Axes:
    """The axes of the operands, and a new one."""
    shape = operator.outputs[0].shape
    place = concat_axis(operator)
    axes = list(roles.broadcast(operands, shape[:place] + shape[place + 1 :]))
    axes.insert(place, ((shape[place], roles.new()),))
    return tuple(axes)


def without(axes: Axes, place: int) -> Axes:
    """``axes`` less the one at ``place``."""
    return axes[:place] + axes[place + 1 :]


def concat_axis(operator: Operator) -> int:
    """The axis of a concat or a stack, counted from the front."""
    axis = operator.args[1] if len(operator.args) > 1 else operator.kwargs.get("dim", 0)
    return int(axis) % len(operator.outputs[0].shape)


register("add", kind=Kind.SUM, onnx=("Add", "Sum"))
register("sub", "rsub", kind=Kind.DIFFERENCE, onnx=("Sub",))
register("addcmul", kind=Kind.SUM, expands=(("mul", (1, 2)), ("add", (0, -1))))
register("addcdiv", kind=Kind.SUM, expands=(("div", (1, 2)), ("add", (0, -1))))
# lerp(x, h, g) = g·h + (1 - g)·x
register("lerp", kind=Kind.SUM, expands=(("mul", (0, 2)), ("mul", (1, 2)), ("add", (-2, -1))))
register("cat", "concat", "concatenate", kind=Kind.CONCAT, as_name="cat", axes=concat_axes, onnx=("Concat",))
register("stack", kind=Kind.STACK, axes=stack_axes)
