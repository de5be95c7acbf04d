"""FLOP rules: fvcore's handles fed with recorded operators, and our own where fvcore has none.

One FLOP is one multiply-add, fvcore's convention. fvcore's handles read values of a TorchScript trace; `_Traced`
shows a recorded shape or argument through the few methods that they call, so fvcore's figures are had without its
tracer. Every rule is a pure function of shapes and is remembered by them, since deep networks repeat themselves.

The families' files register these functions as the ``flops`` facts of their operators.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, lru_cache
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from skipgraph.capture.program import Composite, Operator, Value

Shape = tuple[int, ...]
_REMEMBERED = 1 << 16  # distinct shapes
CallRule = Callable[["list[Operator]"], "int | None"]


class _Traced:
    """A recorded shape, argument or list of tensors in the form in which fvcore's handles read it."""

    __slots__ = ("_shape", "_value")

    def __init__(self, shape: Shape | None = None, value: Any = None) -> None:
        self._shape = shape
        self._value = value

    def isCompleteTensor(self) -> bool:  # noqa: N802 (TorchScript's name)
        return self._shape is not None

    def type(self) -> _Traced:
        return self

    def sizes(self) -> list[int]:
        assert self._shape is not None
        return list(self._shape)

    def toIValue(self) -> Any:  # noqa: N802 (TorchScript's name)
        return self._value

    def node(self) -> _Traced:
        return self

    def inputs(self) -> list[_Traced]:
        return [_Traced(shape) for shape in self._value]


_NOTHING = _Traced()


@cache
def _handles() -> ModuleType:
    # Not at the top: fvcore.nn compiles its losses when imported, which nobody needs before the first model is priced.
    from fvcore.nn import jit_handles

    handles: ModuleType = jit_handles
    return handles


# -- products: fvcore's handles --------------------------------------------------------------------------------------


@lru_cache(maxsize=_REMEMBERED)
def _convolution(inputs: Shape, weight: Shape, output: Shape, transposed: bool) -> int:
    arguments = [_Traced(inputs), _Traced(weight), *[_NOTHING] * 4, _Traced(value=transposed), *[_NOTHING] * 5]
    return int(_handles().conv_flop_jit(arguments, [_Traced(output)])["conv"])


def convolution(operator: Operator) -> int:
    """Elements of the weight times positions and batch: of the result, or of the input if transposed."""
    arguments = operator.args
    transposed = len(arguments) > 6 and arguments[6] is True  # oneDNN's own operators have no such argument
    return _convolution(arguments[0].shape, arguments[1].shape, operator.outputs[0].shape, transposed)


@lru_cache(maxsize=_REMEMBERED)
def _product(handle: str, *shapes: Shape) -> int:
    return int(getattr(_handles(), handle)([_Traced(shape) for shape in shapes], [_NOTHING]))


def addmm(operator: Operator) -> int:
    """``n k m`` for (n, k) by (k, m); the addition is part of the multiply-adds."""
    return _product("addmm_flop_jit", (), operator.args[1].shape, operator.args[2].shape)


def mm(operator: Operator) -> int:
    """``n k m`` for (n, k) by (k, m)."""
    return _product("matmul_flop_jit", operator.args[0].shape, operator.args[1].shape)


def matmul(operator: Operator) -> int | None:
    """Elements of the first factor times columns of the second (fvcore's rule), for factors with two axes or more."""
    left, right = operator.args[0].shape, operator.args[1].shape
    return _product("matmul_flop_jit", left, right) if min(len(left), len(right)) > 1 else None


def linear(operator: Operator) -> int:
    """``n k m`` for (…, k) with n rows in all, by (m, k)."""
    return _product("linear_flop_jit", operator.args[0].shape, operator.args[1].shape)


def bmm(operator: Operator) -> int:
    """``b n k m`` for (b, n, k) by (b, k, m)."""
    return _product("bmm_flop_jit", operator.args[0].shape, operator.args[1].shape)


def grouped_mm(operator: Operator) -> int:
    """``m k n`` for (m, k) by (g, k, n), whichever group a row is in; likewise for groups of columns or of terms."""
    left, right = (value.shape for value in operator.args[:2])
    batch = left[0] if len(left) == len(right) == 3 else 1
    return int(batch * left[-2] * left[-1] * right[-1])


# -- normalisation and resampling: fvcore's handles ------------------------------------------------------------------


@lru_cache(maxsize=_REMEMBERED)
def _norm(shape: Shape, affine: bool) -> int:
    # The handle takes the product of two to five sizes; a tensor of any other rank is shown to it as a matrix.
    rows = _Traced((math.prod(shape), 1))
    return int(_handles().norm_flop_counter(1)([rows, _Traced((1,)) if affine else _NOTHING], [_NOTHING]))


@lru_cache(maxsize=_REMEMBERED)
def _batch_norm(shape: Shape, affine: bool, training: bool) -> int:
    if training:
        return _norm(shape, affine)
    arguments = [_Traced(shape), _Traced((1,)) if affine else _NOTHING, *[_NOTHING] * 3, _Traced(value=False)]
    return int(_handles().batchnorm_flop_jit(arguments, [_NOTHING]))


def batch_norm(operator: Operator) -> int:
    """One multiply-add an element, two with a weight; four and five where statistics are taken from the batch."""
    arguments = operator.args
    training = operator.name == "_batch_norm_with_update" or (len(arguments) > 5 and arguments[5] is True)
    return _batch_norm(arguments[0].shape, arguments[1] is not None, training)


def layer_norm(operator: Operator) -> int:
    """Four multiply-adds an element, five with a weight (fvcore's estimate).

    The weight stands third, as it does in a group norm that was not taken apart.
    """
    return _norm(operator.args[0].shape, len(operator.args) > 2 and operator.args[2] is not None)


def group_norm(operator: Operator) -> int:
    """Four multiply-adds an element, five with a weight (fvcore's estimate)."""
    return _norm(operator.args[0].shape, operator.args[1] is not None)


@lru_cache(maxsize=_REMEMBERED)
def _elementwise(input_scale: int, output_scale: int, inputs: Shape, outputs: Shape) -> int:
    handle = _handles().elementwise_flop_counter(input_scale, output_scale)
    return int(handle([_Traced(inputs)], [_Traced(outputs)]))


def per_result(multiply_adds: int) -> Callable[[Operator], int]:
    """A rule of so many multiply-adds an element of the result.

    fvcore charges 1 for nearest and 4 for bilinear upsampling and for sampling at a grid.
    """

    def rule(operator: Operator) -> int:
        return _elementwise(0, multiply_adds, (), operator.outputs[0].shape)

    return rule


def per_input(operator: Operator) -> int:
    """One multiply-add an element of the input (fvcore's rule for adaptive average pooling)."""
    return _elementwise(1, 0, operator.args[0].shape, ())


# -- calls that dispatch to operators which fvcore would price otherwise ---------------------------------------------


@lru_cache(maxsize=_REMEMBERED)
def _einsum(equation: str, shapes: tuple[Shape, ...]) -> int:
    arguments = [_Traced(value=equation), _Traced(value=shapes)]
    return int(_handles().einsum_flop_jit(arguments, [_NOTHING]))


def einsum_call(operators: list[Operator]) -> int | None:
    """A contraction along numpy's optimal path, which numpy prints to four digits (fvcore's rule)."""
    arguments = operators[0].call.args
    if not arguments or not isinstance(arguments[0], str):
        return None
    return _einsum(arguments[0], tuple(value.shape for value in _flattened(arguments[1:])))


def adaptive_average_call(operators: list[Operator]) -> int | None:
    """One multiply-add an element of the input; pooling to one position dispatches to a mean, which has no rule."""
    return _elementwise(1, 0, operators[0].inputs[0].shape, ())


def instance_norm_call(operators: list[Operator]) -> int | None:
    """Four multiply-adds an element, five with a weight, with running statistics too (fvcore's estimate)."""
    inner = next((operator for operator in operators if "batch_norm" in operator.name), None)
    return None if inner is None else _norm(inner.args[0].shape, inner.args[1] is not None)


def _flattened(operands: Any) -> list[Value]:
    if isinstance(operands, (list, tuple)):
        return [value for operand in operands for value in _flattened(operand)]
    return [operands]


CALL_RULES: dict[Any, tuple[str, CallRule]] = {
    torch.einsum: ("einsum", einsum_call),
    torch.nn.functional.adaptive_avg_pool2d: ("adaptive_avg_pool2d", adaptive_average_call),
    torch._C._nn.adaptive_avg_pool2d: ("adaptive_avg_pool2d", adaptive_average_call),
    torch.nn.functional.instance_norm: ("instance_norm", instance_norm_call),
    torch.instance_norm: ("instance_norm", instance_norm_call),
}
"""Torch functions that are priced as a whole: the name that they are listed under, and the rule.

A rule is given the operators that a call dispatched to, views apart.
"""


# -- our own ---------------------------------------------------------------------------------------------------------


def mv(operator: Operator) -> int:
    """``n k`` for (n, k) by (k,)."""
    return math.prod(operator.args[0].shape)


def addmv(operator: Operator) -> int:
    """``n k`` for an addend and (n, k) by (k,)."""
    return math.prod(operator.args[1].shape)


def dot(operator: Operator) -> int:
    """One multiply-add an element."""
    return math.prod(operator.args[0].shape)


def baddbmm(operator: Operator) -> int:
    """``b n k m`` for an addend and (b, n, k) by (b, k, m)."""
    return _product("bmm_flop_jit", operator.args[1].shape, operator.args[2].shape)


def trilinear(operator: Operator) -> int:
    """``b o i j`` for x (b, i), W (o, i, j), y (b, j): the product with the weight, which is nearly all of it."""
    flops: int = math.prod(operator.args[0].shape[:-1]) * math.prod(operator.args[1].shape)
    return flops


def pairwise_distance(operator: Operator) -> int:
    """``b n m d`` for (b, n, d) and (b, m, d)."""
    return math.prod(operator.outputs[0].shape) * int(operator.args[0].shape[-1])


def fourier(operator: Operator) -> int:
    """``5/2 N log2 n`` multiply-adds for N numbers in complex transforms of n points, half of it for real ones.

    References
    ----------
    Cooley and Tukey (1965): ``N/2 log2 n`` butterflies of ten real operations, two of which are one multiply-add here.
    """
    points = operator.outputs[0].shape if operator.name == "_fft_c2r" else operator.args[0].shape
    length = math.prod(points[axis] for axis in operator.args[1])
    per_point = 2.5 if operator.name == "_fft_c2c" else 1.25
    return round(per_point * math.prod(points) * math.log2(max(length, 1)))


def attention(stretch: Operator | Composite) -> int:
    """Multiply-adds of softmax(q kᵀ) v for (…, L, E), (…, S, E), (…, S, V): ``… L S (E + V)``.

    Scaling, mask and softmax are left out, as they are in any count of products; a causal mask is not credited, since
    kernels differ in what they skip.
    """
    query, key, value = [operand.shape for operand in stretch.inputs[:3]]
    return math.prod(query[:-1]) * int(key[-2]) * int(query[-1] + value[-1])


def recurrent(stretch: Operator | Composite) -> int | None:
    """Elements of the weight matrices times positions: every gate's products with the input and the state.

    Element-wise work on the gates is left out.
    """
    module = getattr(stretch, "module", None)
    if module is None:
        return None
    weights = sum(parameter.numel() for parameter in module.parameters() if parameter.dim() == 2)
    return int(weights * math.prod(stretch.inputs[0].shape[:-1]))
