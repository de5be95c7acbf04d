"""Views, slices, padding, copies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skipgraph.ops import Kind, register
from skipgraph.ops.axes import Axes, AxisRoles, expanded_like, first, view

if TYPE_CHECKING:
    from skipgraph.capture.program import Operator, Value


def permutation(operator: Operator) -> tuple[int, ...]:
    """Which axis of the operand each axis of the result is."""
    rank = len(operator.inputs[0].shape)
    if operator.name == "permute":
        return tuple([dim % rank for dim in operator.args[1]])
    order = list(range(rank))
    if rank > 1:
        a, b = (0, 1) if operator.name == "t" else (operator.args[1] % rank, operator.args[2] % rank)
        order[a], order[b] = order[b], order[a]
    return tuple(order)


def permuted(roles: AxisRoles, operator: Operator, operands: list[Axes]) -> Axes:
    """Axes in their new order."""
    return tuple([operands[0][axis] for axis in permutation(operator)])


def squeezed(roles: AxisRoles, operator: Operator, operands: list[Axes]) -> Axes:
    """Axes of size 1 taken out or put in; the others stay as they are."""
    axes, before, after = operands[0], operator.inputs[0].shape, operator.outputs[0].shape
    result = []
    place = 0
    for size in after:
        while place < len(before) and before[place] == 1 and size != 1:
            place += 1
        if place < len(before) and before[place] == size:
            result.append(axes[place])
            place += 1
        else:
            result.append(((size, roles.added()),))
    return tuple(result)


def selected(roles: AxisRoles, operator: Operator, operands: list[Axes]) -> Axes:
    """One position of one axis: the axis is gone."""
    axis = (operator.args[1] if len(operator.args) > 1 else 0) % len(operands[0])
    return operands[0][:axis] + operands[0][axis + 1 :]


def unfolded(roles: AxisRoles, operator: Operator, operands: list[Axes]) -> Axes:
    """Sliding windows: the axis holds the windows, a new last axis what is in them."""
    shape = operator.outputs[0].shape
    return (*roles.fitted(operands[0], shape[:-1]), ((shape[-1], roles.new()),))


def slice_axis(operator: Operator) -> int:
    """The axis that a slice, select, split, chunk or unbind cuts, counted from the front."""
    place = 2 if operator.name in _SPLITS else 1
    axis = operator.args[place] if len(operator.args) > place else operator.kwargs.get("dim", 0)
    return int(axis) % len(operator.inputs[0].shape)


def slice_range(operator: Operator, axis: int, piece: Value) -> tuple[int, int, int]:
    """Start, stop and step of ``piece`` along the axis that it was cut from; read off the memory that it shows."""
    whole = operator.inputs[0]
    stride = whole.stride[axis] or 1
    start = (piece.offset - whole.offset) // stride
    if len(piece.shape) < len(whole.shape):
        return start, start + 1, 1
    step = max(piece.stride[axis] // stride, 1) if piece.shape[axis] > 1 else 1
    return start, start + piece.shape[axis] * step, step


_SPLITS = frozenset(
    {"split", "split_with_sizes", "chunk", "tensor_split", "unsafe_split", "unsafe_split_with_sizes", "unsafe_chunk"}
)

register(
    "view",
    "_unsafe_view",
    "reshape",
    "_reshape_alias",
    "flatten",
    "unflatten",
    kind=Kind.VIEW,
    axes=view,
    free=True,
    onnx=("Reshape", "Flatten"),
)
register("permute", "transpose", "t", kind=Kind.VIEW, axes=permuted, free=True, onnx=("Transpose",))
register("squeeze", "unsqueeze", kind=Kind.VIEW, axes=squeezed, free=True, onnx=("Squeeze", "Unsqueeze"))
register("as_strided", "view_as_real", "view_as_complex", "diagonal", kind=Kind.VIEW, axes=expanded_like, free=True)
register(
    "alias", "detach", "clone", "_to_copy", "to", "contiguous", "_conj", "_neg_view", "real", "imag", "resolve_conj",
    "complex", "alias_of_write",
    kind=Kind.LINEAR_MAP, axes=expanded_like, free=True, distributes=True, onnx=("Identity", "Cast"),
)  # fmt: skip
register("copy", kind=Kind.LINEAR_MAP, free=True)
register("alias_with_write", kind=Kind.SCATTER, axes=first, free=True)
register("slice", "narrow", kind=Kind.SLICE, axes=first, free=True, onnx=("Slice",))
register("select", kind=Kind.SLICE, axes=selected, free=True)
register(*sorted(_SPLITS), kind=Kind.SLICE, axes=first, free=True, onnx=("Split",))
register("unbind", kind=Kind.SLICE, axes=selected, free=True)
register("unfold", kind=Kind.VIEW, axes=unfolded, free=True)
register("expand", "repeat", "broadcast_to", kind=Kind.EXPAND, axes=expanded_like, free=True, onnx=("Expand", "Tile"))
register(
    "constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d", "replication_pad1d",
    "replication_pad2d", "replication_pad3d", "pad",
    kind=Kind.PAD, axes=first, free=True, distributes=True, onnx=("Pad",),
)  # fmt: skip
register(
    "select_scatter",
    "slice_scatter",
    "scatter",
    "scatter_add",
    "index_put",
    "_index_put_impl",
    "index_copy",
    "index_add",
    "scatter_reduce",
    kind=Kind.SCATTER,
    axes=first,
)
