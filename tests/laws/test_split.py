"""Law 3: a linear layer on a concat is a sum of layers, and the bias is added once."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from skipgraph.passes import ConcatToSum
from tests.helpers.tracing import Written
from tests.laws.agreement import assert_agreement, done, reasons, rewritten
from tests.laws.drawing import CONVOLUTIONS, DTYPES, LAW, TRANSPOSED, WIDTHS, branches, image

FUNCTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
FUNCTIONS_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def check(model: nn.Module, tensor: Tensor, dtype: torch.dtype = torch.float32) -> None:
    inputs = (tensor.to(dtype),)
    result = rewritten(model.to(dtype), inputs, ConcatToSum(), only=("*",))
    assert done(result), reasons(result)
    assert result.after.counts.concat == 0
    assert_agreement(model, result, inputs)


def joined(layer: nn.Module, widths: list[int], rank: int) -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        return self.layer(torch.cat([branch(x) for branch in self.branches], 1))  # type: ignore[no-any-return]

    return Written(forward, layer=layer, branches=branches(widths, rank))


@LAW
@given(
    rank=st.integers(1, 3), widths=WIDTHS, outer=st.integers(1, 3), kernel=st.integers(1, 3), stride=st.integers(1, 2),
    dilation=st.integers(1, 2), padding=st.integers(0, 2), mode=st.sampled_from(["zeros", "reflect", "replicate"]),
    bias=st.booleans(), dtype=DTYPES,
)  # fmt: skip
def test_convolutions(
    rank: int, widths: list[int], outer: int, kernel: int, stride: int, dilation: int, padding: int, mode: str,
    bias: bool, dtype: torch.dtype,
) -> None:  # fmt: skip
    options: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation, "bias": bias}
    layer = CONVOLUTIONS[rank](sum(widths), outer, kernel, padding_mode=mode, **options)
    check(joined(layer, widths, rank), image(3, rank), dtype)


@LAW
@given(
    rank=st.integers(1, 3), widths=WIDTHS, outer=st.integers(1, 3), kernel=st.integers(2, 3), stride=st.integers(1, 2),
    dilation=st.integers(1, 2), padding=st.integers(0, 1), bias=st.booleans(), dtype=DTYPES,
)  # fmt: skip
def test_transposed_convolutions(
    rank: int, widths: list[int], outer: int, kernel: int, stride: int, dilation: int, padding: int, bias: bool,
    dtype: torch.dtype,
) -> None:  # fmt: skip
    extra = min(stride, 2) - 1
    layer = TRANSPOSED[rank](
        sum(widths), outer, kernel, stride, padding, output_padding=extra, dilation=dilation, bias=bias
    )
    check(joined(layer, widths, rank), image(3, rank, 4), dtype)


@LAW
@given(
    widths=WIDTHS, shape=st.sampled_from([(4,), (3, 4), (2, 3, 2)]), bias=st.booleans(), functional=st.booleans(),
    dtype=DTYPES,
)  # fmt: skip
def test_linear_layers(
    widths: list[int], shape: tuple[int, ...], bias: bool, functional: bool, dtype: torch.dtype
) -> None:
    """As modules, and as functions that are given parameters of their own."""

    def forward(self: Any, x: Tensor) -> Tensor:
        both = torch.cat([branch(x) for branch in self.branches], -1)
        return F.linear(both, self.weight, self.bias) if functional else self.layer(both)

    members: dict[str, Any] = {"layer": nn.Linear(sum(widths), 3, bias=bias)}
    if functional:
        members = {
            "weight": nn.Parameter(torch.rand(3, sum(widths))),
            "bias": nn.Parameter(torch.rand(3)) if bias else None,
        }
    model = Written(forward, branches=[nn.Linear(3, width) for width in widths], **members)
    check(model, torch.rand(*shape, 3), dtype)


@LAW
@given(
    rank=st.integers(1, 3), widths=WIDTHS, bias=st.booleans(), transposed=st.booleans(), named=st.booleans(),
    stride=st.integers(1, 2),
)  # fmt: skip
def test_functions_on_parameters(
    rank: int, widths: list[int], bias: bool, transposed: bool, named: bool, stride: int
) -> None:
    function = (FUNCTIONS_TRANSPOSED if transposed else FUNCTIONS)[rank]

    def forward(self: Any, x: Tensor) -> Tensor:
        both = torch.cat([branch(x) for branch in self.branches], 1)
        if named:
            return function(both, weight=self.weight, bias=self.bias, stride=stride)
        return function(both, self.weight, self.bias, stride)

    shape = (sum(widths), 2) if transposed else (2, sum(widths))
    members = {
        "weight": nn.Parameter(torch.rand(*shape, *[2] * rank)),
        "bias": nn.Parameter(torch.rand(2)) if bias else None,
    }
    check(Written(forward, branches=branches(widths, rank), **members), image(3, rank, 4))


@LAW
@given(widths=WIDTHS, times=st.integers(2, 3))
def test_every_reader_is_split(widths: list[int], times: int) -> None:
    """Operands that are inputs, or stand in the concat twice, are nothing else."""

    def forward(self: Any, x: Tensor) -> list[Tensor]:
        operands = [x, *(branch(x) for branch in self.branches)]
        both = torch.cat([*operands, operands[-1]], 1)
        return [layer(both) for layer in self.layers]

    layers = [nn.Conv2d(3 + sum(widths) + widths[-1], 2, 1 + number) for number in range(times)]
    check(Written(forward, branches=branches(widths), layers=layers), image(3))
