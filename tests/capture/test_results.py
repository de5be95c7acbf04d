"""Results that are known by rule are those that PyTorch's own meta kernels make."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import torch

from skipgraph.capture.program import Storage, Value
from skipgraph.capture.results import IN_PLACE, RULES

aten: Any = torch.ops.aten
SHAPES = [(2, 3, 4, 5), (1, 8), (2, 3, 4), (1, 1, 1, 1), (3, 0, 2), (2, 1, 4), (1, 6, 1, 1), (3, 5), (6,), ()]
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
LAYOUTS = ["contiguous", "channels last", "transposed"]
UNARY = {"relu", "silu", "gelu", "sigmoid", "tanh", "hardtanh", "hardswish", "hardsigmoid", "leaky_relu"}
BINARY = {"add", "sub", "mul", "div"}


def made(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, layout: str = "contiguous") -> torch.Tensor:
    tensor = torch.empty(shape, dtype=dtype, device="meta")
    if layout == "channels last" and len(shape) == 4:
        return tensor.to(memory_format=torch.channels_last)
    return tensor.transpose(0, -1) if layout == "transposed" and shape else tensor


def value(item: Any) -> Any:
    """An argument as rules see it: values for tensors."""
    if isinstance(item, list):
        return [value(one) for one in item]
    if not isinstance(item, torch.Tensor):
        return item
    return Value(0, item.shape, item.stride(), 0, item.dtype, Storage(0, 0, -1, "input"))


def described(result: Any) -> list[Any]:
    results = result if isinstance(result, tuple) else (result,)
    return [(tensor.shape, tensor.stride(), tensor.dtype) for tensor in results]


def name_of(overload: Any) -> str:
    return str(overload._schema.name).removeprefix("aten::").removesuffix("_")


def convolutions(first: torch.Tensor) -> Iterator[list[Any]]:
    axes = first.dim() - 2
    if axes < 1:
        return
    channels = first.shape[1]
    for transposed, width, step, pad, apart, groups, biased in product(
        (False, True), (1, 2, 3), (1, 2), (0, 1), (1, 2), {1, channels, 2}, (False, True)
    ):
        if not groups or channels % groups:
            continue
        filters = 4 * groups
        shape = (channels, filters // groups) if transposed else (filters, channels // groups)
        weight = made((*shape, *(width,) * axes), first.dtype)
        bias = made((filters,), first.dtype) if biased else None
        extra = step - 1 if transposed else 0
        numbers = [[number] * axes for number in (step, pad, apart)]
        yield [first, weight, bias, *numbers, transposed, [extra] * axes, groups]


def arguments(overload: Any, first: torch.Tensor) -> Iterator[list[Any]]:
    """Calls of an operator on ``first``, sensible ones and ones that its kernel refuses."""
    name, shape, dtype = name_of(overload), tuple(first.shape), first.dtype
    if name in UNARY:
        yield [first]
    elif overload in (aten.mul.Scalar, aten.pow.Tensor_Scalar):
        yield from ([first, number] for number in (2, 0.5))
    elif name in BINARY:
        others = [shape, shape[1:], (1,) * len(shape), (*shape[:2], 1, 1), (shape[0] if shape else 1, *shape[1:], 3)]
        yield from ([first, made(other, dtype)] for other in others)
        yield from ([made(other, dtype), first] for other in others)
        yield from ([first, number] for number in (2, 0.5))
        yield [first, made(shape, torch.float64)]
    elif name == "native_batch_norm":
        statistics = [made(shape[1:2], dtype) for _ in range(4)]
        yield from ([first, *statistics, training, 0.1, 1e-5] for training in (False, True))
    elif name == "native_layer_norm":
        for kept in range(len(shape)):
            scale = made(shape[kept:], dtype)
            yield from ([first, list(shape[kept:]), weight, bias, 1e-5]
                        for weight in (None, scale) for bias in (None, scale))  # fmt: skip
        yield [first, [7], None, None, 1e-5]
    elif name == "cat":
        wider = made((*shape[:-1], 2 * shape[-1]) if shape else (), dtype)
        yield from ([[first, made(shape, dtype), other], axis]
                    for other in (wider, made(shape, dtype)) for axis in (0, 1, -1))  # fmt: skip
    elif name == "convolution":
        yield from convolutions(first)
    elif name == "mean":
        axes = [[], [0], [-1], [1, 2], [2, 3], [-1, -2], [0, 0], [5]]
        yield from ([first, axis, *kept] for axis in axes for kept in ([], [False], [True]))
    elif name in ("mm", "addmm"):
        rights = [made((shape[-1] if shape else 1, 5), dtype), made((5, shape[-1] if shape else 1), dtype).t()]
        lefts = [[]] if name == "mm" else [[made((5,), dtype)], [made((1,), dtype)], [made((2, 5), dtype)]]
        yield from ([*left, first, right] for left in lefts for right in rights)
    elif name == "_safe_softmax":
        yield from ([first, axis] for axis in (-1, 0, 2, 9))
    else:
        raise AssertionError(f"no calls of {overload}")


def calls(overload: Any, layout: str) -> Iterator[list[Any]]:
    for shape, dtype in product(SHAPES, DTYPES):
        yield from arguments(overload, made(shape, dtype, layout))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("overload", list(RULES), ids=str)
def test_a_rule_says_what_the_kernel_does(overload: Any, layout: str) -> None:
    applied = 0
    for given in calls(overload, layout):
        recipe = RULES[overload](value(given))
        if recipe is not None:
            applied += 1
            assert list(recipe) == described(overload(*given)), given
    least = 12 if layout == "contiguous" else 1
    if overload is aten.convolution.default and layout == "transposed":
        least = 0  # contiguous all the same are only those of one channel, which are left to the kernel
    assert applied >= least


@pytest.mark.parametrize("overload", list(IN_PLACE), ids=str)
def test_what_is_written_in_place_stays_as_it_is(overload: Any) -> None:
    applied = 0
    for given in calls(overload, "contiguous"):
        before = described(given[0]) if isinstance(given[0], torch.Tensor) else []
        if list(IN_PLACE[overload](value(given)) or ()) == before:
            applied += 1
            assert overload(*given) is given[0]
            assert described(given[0]) == before
    assert applied >= 12


def test_sizes_of_convolutions_are_those_that_a_run_has() -> None:
    """On the CPU, with numbers: the meta kernel is no witness for itself."""
    applied = 0
    for given in convolutions(made((2, 4, 7, 9))):
        recipe = RULES[aten.convolution.default](value(given))
        real = [torch.rand(one.shape) if isinstance(one, torch.Tensor) else one for one in given]
        if recipe is not None:
            applied += 1
            ((shape, stride, _),) = recipe
            result = aten.convolution.default(*real)
            assert shape == result.shape
            assert math.prod(shape) == stride[0] * shape[0]
    assert applied > 100


def test_what_a_rule_does_not_cover_is_left_to_the_kernel() -> None:
    x, narrow = value(made((2, 3))), value(made((2, 4)))
    integers = value(made((2, 3), torch.int64))
    assert RULES[aten.add.Tensor]([x, narrow]) is None
    assert RULES[aten.add.Tensor]([x, True]) is None
    assert RULES[aten.div.Tensor]([integers, integers]) is None
    assert RULES[aten.cat.default]([[x, narrow], 0]) is None
    assert RULES[aten.mm.default]([x, narrow]) is None
    assert RULES[aten.mean.dim]([x, [2]]) is None
    image, kernel = value(made((1, 4, 5, 5))), value(made((6, 3, 3, 3)))
    assert RULES[aten.convolution.default](
        [image, kernel, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1]) is None  # fmt: skip
    statistics = [value(made((3,)))] * 4
    assert RULES[aten.native_batch_norm.default]([x, *statistics, True, 0.1, 1e-5]) is None
