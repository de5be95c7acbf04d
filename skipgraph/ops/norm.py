"""Normalisations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skipgraph.ops import Kind, flop_rules, register, workspace
from skipgraph.ops.axes import FEATURE, SPACE, Axes, AxisRoles, first

if TYPE_CHECKING:
    from skipgraph.capture.program import Operator


def channel_norm_axes(roles: AxisRoles, operator: Operator, operands: list[Axes]) -> Axes:
    """(N, C, …): axis 1 is features, what follows is space."""
    axes = operands[0]
    roles.witness(axes[1], FEATURE)
    for axis in axes[2:]:
        roles.witness(axis, SPACE)
    return axes


def layer_norm_axes(roles: AxisRoles, operator: Operator, operands: list[Axes]) -> Axes:
    """The axes that are normalised together are features, unless something stronger says otherwise."""
    axes = operands[0]
    normalized = operator.args[1]
    for axis in axes[len(axes) - len(normalized) :]:
        roles.witness(axis, FEATURE)
    return axes


register(
    "native_batch_norm",
    "_native_batch_norm_legit",
    "_native_batch_norm_legit_no_training",
    "_batch_norm_with_update",
    "_batch_norm_no_update",
    "cudnn_batch_norm",
    "batch_norm",
    kind=Kind.NORM,
    as_name="batch_norm",
    axes=channel_norm_axes,
    flops=flop_rules.batch_norm,
    fvcore=True,
    distributes=True,
    onnx=("BatchNormalization",),
)
register(
    "native_group_norm",
    kind=Kind.NORM,
    as_name="group_norm",
    axes=channel_norm_axes,
    flops=flop_rules.group_norm,
    fvcore=True,
    workspace=workspace.dense_copy,
)
register(
    "group_norm",
    kind=Kind.NORM,
    axes=channel_norm_axes,
    flops=flop_rules.layer_norm,
    fvcore=True,
    workspace=workspace.dense_copy,
)
register(
    "native_layer_norm",
    "layer_norm",
    kind=Kind.NORM,
    as_name="layer_norm",
    axes=layer_norm_axes,
    flops=flop_rules.layer_norm,
    fvcore=True,
    workspace=workspace.dense_copy,
    onnx=("LayerNormalization",),
)
register(
    "_fused_rms_norm", "rms_norm", kind=Kind.NORM, as_name="rms_norm", axes=layer_norm_axes, onnx=("RMSNormalization",)
)
# A weight written as a direction and a length.
register("_weight_norm_interface", kind=Kind.NORM, as_name="weight_norm", axes=first)
