"""Gathers, lookups and reorderings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skipgraph.ops import Kind, register, workspace
from skipgraph.ops.axes import FEATURE, Axes, AxisRoles, expanded_like, first, indexed, selection

if TYPE_CHECKING:
    from skipgraph.capture.program import Operator


def embedding_axes(roles: AxisRoles, operator: Operator, operands: list[Axes]) -> Axes:
    """(table, indices) -> the axes of the indices, then features."""
    shape = operator.outputs[0].shape
    indices = operands[1] if len(operands) > 1 else roles.fresh(shape[:-1])
    return (*roles.fitted(indices, shape[:-1]), ((shape[-1], FEATURE),))


register(
    "embedding",
    "embedding_renorm",
    kind=Kind.EMBEDDING,
    as_name="embedding",
    axes=embedding_axes,
    free=True,
    onnx=("Gather",),
)
register("roll", kind=Kind.INDEX, axes=first, free=True, workspace=workspace.rolled)
register("flip", "sort", "rot90", "tril", "triu", kind=Kind.INDEX, axes=first, free=True)
register("index_select", kind=Kind.INDEX, axes=selection, free=True, onnx=("Gather",))
register(
    "index", "gather", "take", "take_along_dim", "masked_select", "nonzero", "topk", "searchsorted",
    "bucketize", "one_hot", "_unsafe_index", "repeat_interleave", "unique2", "_unique2", "isin",
    kind=Kind.INDEX, axes=indexed, free=True, onnx=("Gather", "GatherElements"),
)  # fmt: skip

# A module that could not be looked into.
register("opaque", kind=Kind.UNKNOWN, axes=expanded_like)
