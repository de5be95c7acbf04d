"""Law 8: a slice of a concat is one of its operands, or of several that another concat joins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from skipgraph.passes import ConcatToSum
from skipgraph.passes.slices import read_off_operands
from skipgraph.rewriting import apply
from skipgraph.rewriting.capturing import captured
from tests.helpers.tracing import Written
from tests.laws.agreement import assert_agreement, done, reasons, rewritten
from tests.laws.drawing import LAW, branches, image

if TYPE_CHECKING:
    from collections.abc import Callable

WAYS: dict[str, Callable[[Tensor, int, int], Tensor]] = {
    "index": lambda x, start, stop: x[:, start:stop],
    "negative": lambda x, start, stop: x[:, start - x.shape[1] : stop],
    "ellipsis": lambda x, start, stop: x[..., start:stop, :, :],
    "narrow": lambda x, start, stop: x.narrow(1, start, stop - start),
    "chunk": lambda x, start, stop: torch.chunk(x[:, start:stop], chunks=1, dim=1)[0],
    "split": lambda x, start, stop: torch.split(x, [start, stop - start, x.shape[1] - stop], 1)[1],
}


@settings(LAW, max_examples=12)  # two plans each
@given(
    widths=st.lists(st.integers(1, 4), min_size=2, max_size=4),
    way=st.sampled_from(sorted(WAYS)),
    data=st.data(),
)
def test_a_slice_is_read_off_the_operands(widths: list[int], way: str, data: st.DataObject) -> None:
    """As dual path networks join them: the next concat joins the slice with something new, layers read the whole."""
    total = sum(widths)
    start = data.draw(st.integers(0, total - 1))
    stop = data.draw(st.integers(start + 1, total))

    def forward(m: Any, x: Tensor) -> Tensor:
        parts = [torch.tanh(branch(x)) for branch in m.branches]
        whole = torch.cat(parts, 1)
        more = torch.cat([torch.sin(m.first(whole)), WAYS[way](whole, start, stop)], 1)
        return m.last(more)  # type: ignore[no-any-return]

    model = Written(
        forward, branches=branches(widths), first=nn.Conv2d(total, 2, 1), last=nn.Conv2d(2 + stop - start, 3, 1)
    )
    result = rewritten(model, (image(3),), ConcatToSum(), only=("*",))
    assert reasons(result) == {}
    assert len(done(result)) == 2
    assert result.after.counts.concat == 0
    assert_agreement(model, result, (image(3),))


def _summed(m: Any, x: Tensor) -> Tensor:
    whole = torch.cat([torch.tanh(m.a(x)), torch.tanh(m.b(x))], 1)
    return m.last(whole) + whole[:, :4]  # type: ignore[no-any-return]


def _written_over(m: Any, x: Tensor) -> Tensor:
    a = m.a(x) + 1
    whole = torch.cat([a, torch.tanh(m.b(x))], 1)
    first = whole[:, :4]
    a.add_(1)
    return m.last(whole) + first + a  # type: ignore[no-any-return]


def _across(m: Any, x: Tensor) -> Tensor:
    whole = torch.cat([torch.tanh(m.a(x)), torch.tanh(m.b(x))], 1)
    return m.last(whole) + whole[:, 2:6]  # type: ignore[no-any-return]


def _sized(m: Any, x: Tensor) -> Tensor:
    a = torch.tanh(m.a(x))
    whole = torch.cat([a, torch.tanh(m.b(x))], 1)
    return m.last(whole) + whole[:, : a.shape[1]] + whole.chunk(2, 1)[1]  # type: ignore[no-any-return]


@pytest.mark.parametrize(("forward", "reason"), [
    (_summed, None),
    (_sized, None),
    (_across, "takes a slice of the concatenated channels"),
    (_written_over, "takes a slice of the concatenated channels"),
])  # fmt: skip
def test_what_else_may_read_it(forward: Callable[..., Tensor], reason: str | None) -> None:
    """An operand whole or in part; not several, and not where somebody writes over either."""
    model = Written(forward, a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(3, 4, 1), last=nn.Conv2d(8, 4, 1))
    result = rewritten(model, (image(3),), ConcatToSum(), only=("*",))
    assert (reasons(result) == {}) == (reason is None)
    assert all(reason is not None and reason in told for told in reasons(result).values())
    assert_agreement(model, result, (image(3),))


def _dropped(m: Any, x: Tensor) -> Tensor:
    a = m.a(x)
    whole = torch.cat([a, m.b(x)], 1)
    return m.last(whole) + m.drop(a) + whole[:, :4]  # type: ignore[no-any-return]


def _promoted(m: Any, x: Tensor) -> Tensor:
    whole = torch.cat([m.a(x).to(torch.float64), m.b(x)], 1).to(x.dtype)
    mixed = torch.cat([m.a(x), m.b(x).double()], 1)
    return m.last(whole) + m.last(mixed.to(x.dtype)) + mixed[:, :4]  # type: ignore[no-any-return]


def _empty(m: Any, x: Tensor) -> Tensor:
    whole = torch.cat([torch.tensor([], dtype=x.dtype), m.a(x), m.b(x)], 1)
    return m.last(whole) + whole[:, :4]  # type: ignore[no-any-return]


def _flattened(m: Any, x: Tensor) -> Tensor:
    whole = torch.cat([m.a(x).flatten(1), m.b(x).flatten(1)], 1)
    return m.wide(whole) + whole[:, :4]  # type: ignore[no-any-return]


def _without_gradient(m: Any, x: Tensor) -> Tensor:
    whole = torch.cat([m.a(x), m.b(x)], 1)
    with torch.no_grad():
        first = whole[:, :4]
    return m.last(whole) + first  # type: ignore[no-any-return]


@pytest.mark.parametrize("forward", [_dropped, _promoted, _empty, _flattened, _without_gradient])
def test_where_a_slice_of_an_operand_is_another(forward: Callable[..., Tensor]) -> None:
    """Written over in training alone, of another dtype, out of line, without a gradient; or it moves with the input."""
    model = Written(
        forward, a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(3, 4, 1), last=nn.Conv2d(8, 4, 1), wide=nn.Linear(8 * 36, 4),
        drop=nn.Dropout(0.5, inplace=True),
    )  # fmt: skip
    original = captured(model, ((image(3),), {}))
    assert read_off_operands(original, ((image(3),), {}), joining=True) is original


def test_blocks_without_gradients() -> None:
    """Reversible blocks (Gomez et al., RevNet, 2017) join halves that the next one takes apart; some ask in vain."""

    def forward(m: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            for _ in range(3):
                first, second = x.chunk(2, 1)
                first = first + m.a(second)
                m.kept, x = x.data, torch.cat([first, second + torch.tanh(m.b(first))], 1)
        return m.last(x)  # type: ignore[no-any-return]

    model = Written(forward, a=nn.Conv2d(4, 4, 1), b=nn.Conv2d(4, 4, 1), last=nn.Conv2d(8, 4, 1))
    result = rewritten(model, (image(8),), ConcatToSum(), only=("*",))
    assert reasons(result) == {}
    assert result.after.counts.concat == 0
    assert_agreement(model, result, (image(8),))


def test_patterns_choose_by_the_ids_of_inspection() -> None:
    """A concat that is gone would shift the names of those behind it."""

    def forward(m: Any, x: Tensor) -> Tensor:
        first = torch.cat([torch.tanh(m.a(x)), torch.tanh(m.b(x))], 1)
        halves = m.last(torch.cat([first[:, :4], first[:, 4:]], 1))
        return halves + m.more(torch.cat([x, torch.sin(m.a(x))], 1))  # type: ignore[no-any-return]

    members = {"a": nn.Conv2d(3, 4, 1), "b": nn.Conv2d(3, 4, 1), "last": nn.Conv2d(8, 4, 1), "more": nn.Conv2d(7, 4, 1)}
    model = Written(forward, **members)
    result = rewritten(model, (image(3),), ConcatToSum(), only=("cat_2",))
    assert done(result) == ["cat_2"]
    assert len(result.model.more) == 2  # type: ignore[arg-type]
    assert_agreement(model, result, (image(3),))
    whole = rewritten(model, (image(3),), ConcatToSum(), only=("*",))
    assert whole.after.counts.concat == 0
    assert apply(model, (image(3),), whole.plan).plan.records == whole.plan.records


def test_positions_are_left_where_they_are() -> None:
    """With longer inputs the first six are others."""

    def forward(m: Any, x: Tensor) -> Tensor:
        whole = torch.cat([torch.cos(x), torch.sin(m.prompt).expand(2, -1, -1)], 1)
        both = torch.cat([m.a(whole), torch.tanh(whole)], 2)
        return m.last(both).sum(1) + whole[:, :6].sum(1)  # type: ignore[no-any-return]

    model = Written(forward, prompt=nn.Parameter(torch.randn(1, 3, 4)), a=nn.Linear(4, 4), last=nn.Linear(8, 4))
    result = rewritten(model, (torch.randn(2, 6, 4),), ConcatToSum(), only=("*",))
    assert done(result) == ["cat_1"]
    longer = torch.randn(2, 9, 4)
    torch.testing.assert_close(result.model(longer), model(longer))


def test_what_is_read_for_nothing() -> None:
    """Classifiers whose results are thrown away read a concat, too, and their norms go on counting in training."""

    def forward(m: Any, x: Tensor) -> Tensor:
        whole = torch.cat([torch.tanh(m.a(x)), torch.tanh(m.b(x))], 1)
        m.norm(m.unused(whole))
        return m.last(whole)  # type: ignore[no-any-return]

    members = {"a": nn.Conv2d(3, 4, 1), "b": nn.Conv2d(3, 4, 1), "last": nn.Conv2d(8, 4, 1)}
    model = Written(forward, **members, unused=nn.Conv2d(8, 2, 1), norm=nn.BatchNorm2d(2))
    result = rewritten(model, (image(3),), ConcatToSum(), only=("*",))
    assert reasons(result) == {}
    assert_agreement(model, result, (image(3),))

    def joined_again(m: Any, x: Tensor) -> Tensor:
        whole = torch.cat([torch.tanh(m.a(x)), torch.tanh(m.b(x))], 1)
        torch.cat([whole, x], 1).sin()
        return m.last(whole)  # type: ignore[no-any-return]

    result = rewritten(Written(joined_again, **members), (image(3),), ConcatToSum(), only=("*",))
    assert list(reasons(result).values()) == ["cat_1, of which no output is made, joins the channels again"]
