"""Pooling over windows."""

from __future__ import annotations

from skipgraph.ops import Kind, flop_rules, register
from skipgraph.ops.axes import channels_second

register(
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    kind=Kind.POOL,
    axes=channels_second,
    distributes=True,
    onnx=("AveragePool",),
)
register(
    "_adaptive_avg_pool2d",
    kind=Kind.POOL,
    as_name="adaptive_avg_pool",
    axes=channels_second,
    distributes=True,
    flops=flop_rules.per_input,
    fvcore=True,
    onnx=("GlobalAveragePool",),
)
register(
    "_adaptive_avg_pool3d",
    "adaptive_avg_pool1d",
    kind=Kind.POOL,
    as_name="adaptive_avg_pool",
    axes=channels_second,
    distributes=True,
    onnx=("GlobalAveragePool",),
)
register(
    "max_pool1d",
    "max_pool2d_with_indices",
    "max_pool3d_with_indices",
    "max_pool2d",
    "adaptive_max_pool2d",
    "adaptive_max_pool3d",
    "fractional_max_pool2d",
    "fractional_max_pool3d",
    "max_unpool2d",
    "max_unpool3d",
    kind=Kind.POOL,
    as_name="max_pool",
    axes=channels_second,
    distributes=True,
    onnx=("MaxPool",),
)
