"""Element-wise non-linearities, and the functions whose results may gate."""

from __future__ import annotations

from skipgraph.ops import Kind, register, workspace
from skipgraph.ops.axes import first

register(
    "relu",
    "relu6",
    "gelu",
    "silu",
    "elu",
    "selu",
    "celu",
    "leaky_relu",
    "hardswish",
    "hardtanh",
    "tanh",
    "softplus",
    "softshrink",
    "hardshrink",
    "mish",
    "prelu",
    "_prelu_kernel",
    "threshold",
    "log_sigmoid_forward",
    "rrelu_with_noise",
    "clamp_min",
    "erf",
    kind=Kind.ACTIVATION,
    distributes=True,
)
register("glu", kind=Kind.ACTIVATION, axes=first)
register("sigmoid", "hardsigmoid", kind=Kind.GATE, distributes=True, onnx=("Sigmoid", "HardSigmoid"))
register(
    "_softmax",
    "_safe_softmax",
    "softmax",
    kind=Kind.GATE,
    as_name="softmax",
    workspace=workspace.dense_copy,
    onnx=("Softmax",),
)
register(
    "_log_softmax",
    "log_softmax",
    kind=Kind.ACTIVATION,
    as_name="log_softmax",
    workspace=workspace.dense_copy,
    onnx=("LogSoftmax",),
)
