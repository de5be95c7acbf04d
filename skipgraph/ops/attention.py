"""Attention as one node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skipgraph.ops import Kind, flop_rules, register, workspace
from skipgraph.ops.axes import FEATURE, SPACE, Axes, AxisRoles

if TYPE_CHECKING:
    from skipgraph.capture.program import Operator


def attention_axes(roles: AxisRoles, operator: Operator, operands: list[Axes]) -> Axes:
    """(…, L, E), (…, S, E), (…, S, V) -> (…, L, V)."""
    query, value = operands[0], operands[2]
    roles.witness(query[-2], SPACE, weak=True)
    roles.witness(query[-1], FEATURE, weak=True)
    return roles.fitted((*query[:-1], value[-1]), operator.outputs[0].shape)


def multi_head_axes(roles: AxisRoles, operator: Operator, operands: list[Axes]) -> Axes:
    """(N, L, E) or (L, N, E): the last axis is features."""
    axes = operands[0]
    roles.witness(axes[-1], FEATURE)
    return roles.fitted(axes, operator.outputs[0].shape)


register(
    "scaled_dot_product_attention",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_attention_math",
    "_scaled_dot_product_fused_attention_overrideable",
    kind=Kind.ATTENTION,
    as_name="scaled_dot_product_attention",
    apart=2,
    axes=attention_axes,
    flops=flop_rules.attention,
    workspace=workspace.attention,
    saves=workspace.attention_saves,
    onnx=("Attention",),
)
register("multi_head_attention", kind=Kind.ATTENTION_LAYER, axes=multi_head_axes)
