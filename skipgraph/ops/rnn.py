"""Recurrent modules as one node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skipgraph.ops import Kind, flop_rules, register, workspace
from skipgraph.ops.axes import FEATURE, Axes, AxisRoles

if TYPE_CHECKING:
    from skipgraph.capture.program import Operator


def recurrent_axes(roles: AxisRoles, operator: Operator, operands: list[Axes]) -> Axes:
    """(L, N, C) or (N, L, C): the last axis is features."""
    axes = operands[0]
    roles.witness(axes[-1], FEATURE)
    shape = operator.outputs[0].shape
    if len(axes) != len(shape):
        return roles.aligned(axes, shape)
    return (*roles.fitted(axes[:-1], shape[:-1]), ((shape[-1], FEATURE),))


register(
    "lstm",
    kind=Kind.RECURRENT,
    axes=recurrent_axes,
    flops=flop_rules.recurrent,
    workspace=workspace.recurrent,
    saves=workspace.recurrent_saves,
    onnx=("LSTM",),
)
register(
    "gru",
    "rnn",
    kind=Kind.RECURRENT,
    axes=recurrent_axes,
    flops=flop_rules.recurrent,
    workspace=workspace.recurrent,
    onnx=("GRU", "RNN"),
)
