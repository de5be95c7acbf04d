"""Laws 4 and 5: a sum of linear layers, and of tensors as they are, is one layer on a concat."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from skipgraph.passes import SumToConcat
from tests.helpers.tracing import Written
from tests.laws.agreement import assert_agreement, done, reasons, rewritten
from tests.laws.drawing import CONVOLUTIONS, DTYPES, LAW, image

NORMS: dict[int, Any] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
WIDTH = 3


def check(model: nn.Module, tensor: Tensor, rewrite: SumToConcat, dtype: torch.dtype = torch.float32) -> None:
    inputs = (tensor.to(dtype),)
    result = rewritten(model.to(dtype), inputs, rewrite, only=("*",))
    assert done(result), reasons(result)
    assert result.after.counts.add == 0
    assert_agreement(model, result, inputs)


def summed(self: Any, x: Tensor) -> Tensor:
    """Each layer on a tensor of its own; None stands for the identity."""
    total: Any = None
    for number, layer in enumerate(self.terms):
        operand = torch.tanh(x * (number + 1))
        term = operand if isinstance(layer, nn.Identity) else layer(operand)
        total = term if total is None else total + term
    return torch.relu(total)


@LAW
@given(
    rank=st.integers(1, 3), kernels=st.lists(st.sampled_from([None, 1, 3, 5]), min_size=2, max_size=5),
    biases=st.lists(st.booleans(), min_size=5, max_size=5), dtype=DTYPES,
)  # fmt: skip
def test_unlike_kernels_and_identities(
    rank: int, kernels: list[int | None], biases: list[bool], dtype: torch.dtype
) -> None:
    terms = [
        nn.Identity() if kernel is None else CONVOLUTIONS[rank](WIDTH, WIDTH, kernel, padding=kernel // 2, bias=bias)
        for kernel, bias in zip(kernels, biases, strict=False)
    ]
    model = Written(summed, terms=terms)
    check(model, image(WIDTH, rank, 5), SumToConcat(allow_identity=all(kernel is None for kernel in kernels)), dtype)


@LAW
@given(
    rank=st.integers(1, 2), dilation=st.integers(1, 3), stride=st.integers(1, 2), pointwise=st.integers(1, 3),
    before=st.booleans(), word=st.booleans(),
)  # fmt: skip
def test_strides_and_dilations(rank: int, dilation: int, stride: int, pointwise: int, before: bool, word: bool) -> None:
    """A kernel of one tap fits into a dilated one, at the tap that reads the position itself."""
    padding: Any = "same" if word and stride == 1 else dilation
    wide = CONVOLUTIONS[rank](WIDTH, 4, 3, stride, padding, dilation)
    narrow = [CONVOLUTIONS[rank](WIDTH, 4, 1, stride) for _ in range(pointwise)]
    model = Written(summed, terms=[*narrow, wide] if before else [wide, *narrow])
    check(model, image(WIDTH, rank, 8), SumToConcat())


@LAW
@given(
    kernel=st.sampled_from([(1, 3), (3, 1), (3, 3), (5, 3)]), other=st.sampled_from([(1, 1), (1, 3), (3, 1), (3, 3)])
)
def test_kernels_that_are_no_squares(kernel: tuple[int, int], other: tuple[int, int]) -> None:
    terms = [nn.Conv2d(WIDTH, WIDTH, size, padding=(size[0] // 2, size[1] // 2)) for size in (kernel, other)]
    model = Written(summed, terms=terms)
    inputs = (image(WIDTH),)
    result = rewritten(model, inputs, SumToConcat(), only=("*",))
    nested = all(a <= b for a, b in zip(kernel, other, strict=True)) or all(
        a >= b for a, b in zip(kernel, other, strict=True)
    )
    if nested:
        assert done(result), reasons(result)
        assert_agreement(model, result, inputs)
    else:
        assert "cannot share one window" in reasons(result)["add"]


@LAW
@given(
    layers=st.lists(st.sampled_from([None, True, False]), min_size=2, max_size=4),
    shape=st.sampled_from([(4,), (3, 4)]), dtype=DTYPES,
)  # fmt: skip
def test_linear_layers_on_tokens(layers: list[bool | None], shape: tuple[int, ...], dtype: torch.dtype) -> None:
    terms = [nn.Identity() if bias is None else nn.Linear(WIDTH, WIDTH, bias=bias) for bias in layers]
    rewrite = SumToConcat(allow_identity=all(bias is None for bias in layers))
    check(Written(summed, terms=terms), torch.rand(*shape, WIDTH), rewrite, dtype)


@LAW
@given(
    rank=st.integers(1, 3),
    terms=st.lists(
        st.tuples(st.sampled_from([1, 3]), st.booleans(), st.sampled_from(["none", "norm", "affine"])),
        min_size=1, max_size=3,
    ),
    epsilon=st.sampled_from([1e-5, 0.3]), identity=st.booleans(),
)  # fmt: skip
def test_batch_norms_are_folded_in_evaluation(
    rank: int, terms: list[tuple[int, bool, str]], epsilon: float, identity: bool
) -> None:
    """In training, the model computes as before."""
    members: list[nn.Module] = []
    for kernel, bias, norm in terms:
        layer = CONVOLUTIONS[rank](WIDTH, WIDTH, kernel, padding=kernel // 2, bias=bias)
        normed = NORMS[rank](WIDTH, eps=epsilon, affine=norm == "affine")
        members.append(layer if norm == "none" else nn.Sequential(layer, normed))
    if identity or len(members) == 1:
        members.append(nn.Identity())
    check(Written(summed, terms=members), image(WIDTH, rank, 5), SumToConcat(eval_only=True))


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(WIDTH), nn.GroupNorm(1, WIDTH)], ids=["batch norm", "group norm"])
def test_identities_alone_in_front_of_norms(norm: nn.Module) -> None:
    model = Written(summed, terms=[nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 1), norm), nn.Identity()])
    check(model, image(WIDTH), SumToConcat(allow_identity=True))
