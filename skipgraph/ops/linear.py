"""Convolutions, matrix products, transforms."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skipgraph.ops import Kind, flop_rules, register, workspace
from skipgraph.ops.axes import FEATURE, SPACE, Axes, Axis, AxisRoles, axis_size, first

if TYPE_CHECKING:
    from skipgraph.capture.program import Operator, Value


def convolution_axes(roles: AxisRoles, operator: Operator, operands: list[Axes]) -> Axes:
    """(N, C, …) -> (N, C', …): the strongest witness of what is feature and what is space."""
    axes = operands[0]
    shape = operator.outputs[0].shape
    roles.witness(axes[1], FEATURE)
    for axis in axes[2:]:
        roles.witness(axis, SPACE)
    space = [
        axis if axis_size(axis) == size else ((size, SPACE),) for axis, size in zip(axes[2:], shape[2:], strict=True)
    ]
    return (axes[0], ((shape[1], FEATURE),), *space)


def _contracted(roles: AxisRoles, kept: Axis, size: int, contracted: Axis) -> Axis:
    """The new axis of a product with a constant matrix plays the role of the axis that was contracted."""
    return ((size, roles.part_of(max(contracted)[1])),) if contracted else kept


def matrix_product_axes(roles: AxisRoles, operator: Operator, operands: list[Axes]) -> Axes:
    """(…, M, K) · (…, K, N): M from the left, N from the right; K is witnessed as features, weakly."""
    left, right = operands[-2], operands[-1]
    rows, columns = _product_axes(roles, operator.inputs[-2:], left, right)
    constant_left, constant_right = (value.index in roles.constants for value in operator.inputs[-2:])
    batch = right[:-2] if constant_left and not constant_right else left[:-2]
    return (*batch, rows, columns)


def grouped_product_axes(roles: AxisRoles, operator: Operator, operands: list[Axes]) -> Axes:
    """(M, K) · (G, K, N), the rows in groups, and the other forms of `torch.nn.functional.grouped_mm`."""
    left, right = operands[:2]
    made = _product_axes(roles, operator.inputs[:2], left, right)
    if len(operator.outputs[0].shape) == 2:
        return made
    return (*(left[:-2] or operands[2]), *made)


def _product_axes(roles: AxisRoles, factors: list[Value], left: Axes, right: Axes) -> tuple[Axis, Axis]:
    """The last two axes of a product."""
    constant_left, constant_right = (value.index in roles.constants for value in factors)
    rows, contracted_left = left[-2], left[-1]
    contracted_right, columns = right[-2], right[-1]
    if constant_right and not constant_left:
        roles.witness(contracted_left, FEATURE, weak=True)
        columns = _contracted(roles, columns, axis_size(columns), contracted_left)
    elif constant_left and not constant_right:
        rows = _contracted(roles, rows, axis_size(rows), contracted_right)
    else:
        roles.identify(contracted_left, contracted_right)
    return rows, columns


def matrix_vector_axes(roles: AxisRoles, operator: Operator, operands: list[Axes]) -> Axes:
    """(M, K) · (K): the rows of the matrix."""
    return roles.fitted(operands[-2][:-1], operator.outputs[0].shape)


register(
    "convolution",
    "_convolution",
    "mkldnn_convolution",
    "conv_depthwise2d",
    kind=Kind.LAYER,
    as_name="convolution",
    axes=convolution_axes,
    flops=flop_rules.convolution,
    fvcore=True,
    workspace=workspace.convolution,
    onnx=("Conv", "ConvTranspose"),
)
register("mm", kind=Kind.MATMUL, axes=matrix_product_axes, flops=flop_rules.mm, fvcore=True)
register("bmm", kind=Kind.MATMUL, axes=matrix_product_axes, flops=flop_rules.bmm, fvcore=True, apart=1)
register("_grouped_mm", kind=Kind.MATMUL, as_name="grouped_mm", axes=grouped_product_axes, flops=flop_rules.grouped_mm)
register("matmul", kind=Kind.MATMUL, axes=matrix_product_axes, flops=flop_rules.matmul, fvcore=True, onnx=("MatMul",))
register("linear", kind=Kind.MATMUL, axes=matrix_product_axes, flops=flop_rules.linear, fvcore=True)
# A bias that is data makes them a product and a sum.
register(
    "addmm",
    kind=Kind.MATMUL,
    axes=matrix_product_axes,
    expands=(("mm", (1, 2)), ("add", (0, -1))),
    flops=flop_rules.addmm,
    fvcore=True,
    onnx=("Gemm",),
)
register(
    "baddbmm",
    kind=Kind.MATMUL,
    axes=matrix_product_axes,
    expands=(("bmm", (1, 2)), ("add", (0, -1))),
    flops=flop_rules.baddbmm,
)
register("mv", kind=Kind.MATMUL, axes=matrix_vector_axes, flops=flop_rules.mv)
register("addmv", kind=Kind.MATMUL, axes=matrix_vector_axes, flops=flop_rules.addmv)
register("dot", "vdot", kind=Kind.MATMUL, axes=matrix_vector_axes, flops=flop_rules.dot)
register("_trilinear", kind=Kind.LAYER, axes=first, flops=flop_rules.trilinear)
register(
    "_fft_r2c",
    "_fft_c2c",
    "_fft_c2r",
    kind=Kind.LAYER,
    as_name="fft",
    axes=first,
    flops=flop_rules.fourier,
    onnx=("DFT",),
)
