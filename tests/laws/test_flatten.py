"""Law 1: nested concats are one, and so are nested sums."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from skipgraph.passes import ConcatToSum, SumToConcat
from tests.helpers.tracing import Written
from tests.laws.agreement import assert_agreement, done, reasons, rewritten
from tests.laws.drawing import LAW, branches, image

LEAVES = st.integers(1, 4)
TREES = st.lists(
    st.recursive(LEAVES, lambda inner: st.lists(inner, min_size=2, max_size=3), max_leaves=5), min_size=2, max_size=3
)


def leaves(tree: Any) -> list[int]:
    return [leaf for branch in tree for leaf in leaves(branch)] if isinstance(tree, list) else [tree]


@LAW
@given(tree=TREES, read=st.booleans())
def test_nested_concats_are_taken_apart_together(tree: Any, read: bool) -> None:
    """Inner concats may be read by layers of their own, which makes them sites of their own."""
    widths = leaves(tree)

    def forward(self: Any, x: Tensor) -> list[Tensor]:
        made = iter(self.branches)
        readers = iter(self.readers)
        results = []

        def joined(branch: Any) -> Tensor:
            if not isinstance(branch, list):
                return torch.tanh(next(made)(x))  # type: ignore[no-any-return]
            both = torch.cat([joined(one) for one in branch], 1)
            if read:
                results.append(next(readers)(both))
            return both

        whole = joined(tree)
        return [self.last(whole), *results]

    readers: list[nn.Module] = []

    def collect(branch: Any) -> None:
        if isinstance(branch, list):
            for one in branch:
                collect(one)
            readers.append(nn.Conv2d(sum(leaves(branch)), 2, 1))

    collect(tree)
    model = Written(forward, branches=branches(widths), readers=readers, last=nn.Conv2d(sum(widths), 2, 3))
    inputs = (image(3),)
    result = rewritten(model, inputs, ConcatToSum(), only=("*",))
    assert done(result), reasons(result)
    assert not reasons(result)
    assert result.after.counts.concat == 0
    assert_agreement(model, result, inputs)


@LAW
@given(tree=TREES)
def test_nested_sums_become_one_layer(tree: Any) -> None:
    count = len(leaves(tree))

    def forward(self: Any, x: Tensor) -> Tensor:
        made = iter(self.branches)

        def summed(branch: Any) -> Tensor:
            if not isinstance(branch, list):
                return next(made)(torch.tanh(x))  # type: ignore[no-any-return]
            first, *others = [summed(one) for one in branch]
            for other in others:
                first = first + other
            return first

        return torch.relu(summed(tree))

    model = Written(forward, branches=branches([3] * count))
    inputs = (image(3),)
    result = rewritten(model, inputs, SumToConcat(), only=("*",))
    assert len(done(result)) == 1, reasons(result)
    assert_agreement(model, result, inputs)
