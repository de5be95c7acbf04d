"""Concats whose channels meet: ``cat(a, b) + cat(c, d) = cat(a + c, b + d)``, where the borders are the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from skipgraph.capture import runnable
from skipgraph.emit import alone_of
from skipgraph.emit.source import source
from skipgraph.passes import ConcatToSum
from skipgraph.plan import Plan
from skipgraph.rewriting import undo
from tests.helpers.tracing import Written
from tests.laws.agreement import assert_agreement, done, reasons, rewritten
from tests.laws.drawing import LAW, image

if TYPE_CHECKING:
    from collections.abc import Callable

COMBINED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sum": lambda x, y: x + y,
    "sum in place": lambda x, y: x.add_(y),
    "product": lambda x, y: x * torch.sigmoid(y),
    "difference": lambda x, y: torch.tanh(y) - x,
}


def ghosts(count: int, first: int, second: int, combined: Callable[[Tensor, Tensor], Tensor]) -> nn.Module:
    """Blocks that join a layer's result with what another makes of it, and add up what they were given."""

    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.stem(x)
        for primary, cheap, norm in zip(m.primary, m.cheap, m.norms, strict=True):
            a = torch.tanh(primary(h))
            joined = torch.cat([a, torch.tanh(cheap(a))], 1)
            h = combined(norm(joined), h)
        return m.last(torch.relu(h))  # type: ignore[no-any-return]

    width = first + second
    return Written(
        forward,
        stem=nn.Conv2d(3, width, 1),
        primary=[nn.Conv2d(width, first, 3, padding=1) for _ in range(count)],
        cheap=[nn.Conv2d(first, second, 1) for _ in range(count)],
        norms=[nn.BatchNorm2d(width) for _ in range(count)],
        last=nn.Conv2d(width, 2, 1),
    )


@LAW
@given(
    count=st.integers(2, 4), first=st.integers(1, 4), second=st.integers(1, 4), combined=st.sampled_from(list(COMBINED))
)
def test_all_that_meet_go_at_once(count: int, first: int, second: int, combined: str) -> None:
    model = ghosts(count, first, second, COMBINED[combined])
    result = rewritten(model, (image(3),), ConcatToSum(), only=("*",))
    assert len(done(result)) == count, reasons(result)
    assert result.after.counts.concat == 0
    assert not any(node.target is torch.cat for node in result.model.graphs[False].nodes)
    assert_agreement(model, result, (image(3),))


@pytest.mark.parametrize("combined", COMBINED)
def test_there_and_back(combined: str) -> None:
    torch.manual_seed(0)
    model = ghosts(3, 3, 2, COMBINED[combined])
    result = rewritten(model, (image(3),), ConcatToSum())
    plan = Plan.from_json(result.plan.to_json())
    assert plan == result.plan
    assert len(plan.records[False]) == 1
    alone = alone_of(source(result.model, result.inputs, title="It."), result.model, result.inputs)
    for again in (undo(result.model, plan), undo(runnable(alone, *result.inputs), plan)):
        nodes = list(again.graphs[False].nodes)
        assert [node.target for node in nodes].count(torch.cat) == 3
        assert not any(node.target in ("narrow", "clone") for node in nodes)
        model.eval(), again.eval()
        x = image(3)
        assert torch.equal(model(x), again(x))


def test_other_borders_stay_apart() -> None:
    """One of the two is rewritten, with slices of what it is added to; the other is read by those slices."""

    def forward(m: Any, x: Tensor) -> Tensor:
        a, b, c = m.a(x), m.b(x), m.c(x)
        return m.last(torch.cat([a, b], 1) + torch.cat([torch.tanh(b), torch.tanh(a)], 1)) + m.other(c)  # type: ignore[no-any-return]

    model = Written(
        forward, a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(3, 2, 1), c=nn.Conv2d(3, 2, 1), last=nn.Conv2d(6, 2, 1),
        other=nn.Conv2d(2, 2, 1),
    )  # fmt: skip
    result = rewritten(model, (image(3),), ConcatToSum(), only=("*",))
    assert len(done(result)) == 1
    assert list(reasons(result).values()) == ["add was rewritten with an earlier site"]
    assert_agreement(model, result, (image(3),))
