"""Products, quotients and the other element-wise functions; reductions; creation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skipgraph.ops import Kind, register
from skipgraph.ops.axes import Axes, AxisRoles

if TYPE_CHECKING:
    from skipgraph.capture.program import Operator


def reduced_axes(operator: Operator) -> tuple[int, ...]:
    """The axes that a reduction runs over, counted from the front."""
    rank = len(operator.inputs[0].shape)
    dims = operator.args[1] if len(operator.args) > 1 else operator.kwargs.get("dim")
    if isinstance(dims, int) and not isinstance(dims, bool):
        dims = (dims,)
    if not isinstance(dims, (tuple, list)) or not dims:
        return tuple(range(rank))
    return tuple(sorted(int(dim) % rank for dim in dims)) if rank else ()


def norm_reduced_axes(roles: AxisRoles, operator: Operator, operands: list[Axes]) -> Axes:
    """Vector norms: the order stands before the axes; the result tells by its sizes."""
    return roles.aligned(operands[0], operator.outputs[0].shape)


def reduction_axes(roles: AxisRoles, operator: Operator, operands: list[Axes]) -> Axes:
    """The axes of the operand, less those that are summed over or with these at size 1."""
    shape = operator.outputs[0].shape
    axes = operands[0]
    if len(shape) == len(axes):
        return roles.fitted(axes, shape)
    gone = set(reduced_axes(operator))
    kept = tuple([axis for place, axis in enumerate(axes) if place not in gone])
    return roles.fitted(kept, shape) if len(kept) == len(shape) else roles.fresh(shape)


register("mul", "multiply", kind=Kind.PRODUCT, as_name="mul", onnx=("Mul",))
register("div", "divide", kind=Kind.QUOTIENT, as_name="div", onnx=("Div",))
register(
    "neg",
    "native_dropout",
    "dropout",
    "alpha_dropout",
    "feature_dropout",
    kind=Kind.LINEAR_MAP,
    distributes=True,
)
# Rounding of numbers that are to stand for integers. In ONNX it is two nodes, which cannot be taken to each operand.
register(
    "quantize_dequantize", "fake_quantize_per_tensor_affine_cachemask", kind=Kind.LINEAR_MAP, onnx=("QuantizeLinear",)
)
register(
    "abs", "exp", "expm1", "exp2", "log", "log1p", "log2", "sqrt", "rsqrt", "reciprocal", "square", "pow", "sin", "cos",
    "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", "floor", "ceil", "round", "trunc", "frac", "sign", "sgn",
    "clamp", "clamp_max", "nan_to_num", "logit", "erfc", "erfinv", "remainder", "fmod", "floor_divide",
    kind=Kind.ELEMENTWISE,
    distributes=True,
)  # fmt: skip
register("maximum", "minimum", "where", "masked_fill", "hypot", "xlogy", kind=Kind.ELEMENTWISE)
register(
    "eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_not", "logical_xor", "bitwise_and",
    "bitwise_or", "bitwise_not", "bitwise_xor", "bitwise_left_shift", "bitwise_right_shift", "isnan", "isinf",
    "isfinite", "__and__", "__or__", "__xor__",
    kind=Kind.ELEMENTWISE,
    free=True,
)  # fmt: skip
register(
    "sum", "mean", "amax", "amin", "max", "min", "var", "std", "var_mean", "std_mean", "prod", "logsumexp", "argmax",
    "argmin", "any", "all", "median", "aminmax", "histc", "mse_loss",
    kind=Kind.REDUCE,
    axes=reduction_axes,
)  # fmt: skip
register("linalg_vector_norm", "norm", kind=Kind.REDUCE, axes=norm_reduced_axes)
register("cumsum", "cumprod", "logcumsumexp", "cummax", kind=Kind.ELEMENTWISE)
register(
    "empty", "empty_strided", "empty_like", "new_empty", "new_empty_strided", "new_zeros", "new_ones", "new_full",
    "zeros", "zeros_like", "ones", "ones_like", "full", "full_like", "arange", "linspace", "logspace", "eye",
    "scalar_tensor", "rand", "randn", "randint", "rand_like", "randn_like", "randint_like", "randperm", "normal",
    "uniform", "bernoulli", "fill", "zero", "lift_fresh", "lift_fresh_copy", "tril_indices", "triu_indices",
    "_local_scalar_dense", "exponential", "hann_window", "set", "resize", "device",
    kind=Kind.CREATE,
    free=True,
)  # fmt: skip
