"""What writes over a concat writes over a copy; over an operand it would write what others read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipgraph.passes import ConcatToSum
from tests.helpers.tracing import Written
from tests.laws.agreement import assert_agreement, done, reasons, rewritten
from tests.laws.drawing import image

if TYPE_CHECKING:
    from collections.abc import Callable


HANDED_ON: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "the concat itself": lambda m, x: x,
    "dropout, which in evaluation hands its operand on": lambda m, x: m.drop(x),
    "a view": lambda m, x: x[:, :, 1:],
    "a view of what was handed on": lambda m, x: m.drop(x)[..., 1:],
    "one that may copy": lambda m, x: x.contiguous(),
    "another shape": lambda m, x: x.reshape(*x.shape[:2], -1, 2),
}


@pytest.mark.parametrize("name", HANDED_ON)
def test_an_operand_that_others_read_is_copied_first(name: str) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        a = torch.tanh(m.a(x))
        b = torch.tanh(m.b(a))
        y = m.last(F.relu(HANDED_ON[name](m, torch.cat([a, b], 1)), inplace=True))
        return F.adaptive_avg_pool2d(y, 1) + F.adaptive_avg_pool2d(m.other(a), 1)  # type: ignore[no-any-return]

    model = Written(
        forward, a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(4, 4, 1), last=nn.Conv2d(8, 2, 1), other=nn.Conv2d(4, 2, 1),
        drop=nn.Dropout(0.0),
    )  # fmt: skip
    result = rewritten(model, (image(3),), ConcatToSum(), only=("*",))
    assert len(done(result)) == 1, reasons(result)
    assert_agreement(model, result, (image(3),))


def test_what_a_layer_has_made_is_written_over_without_a_copy() -> None:
    """Behind a norm, with an identity in between, as timm has them."""

    def forward(m: Any, x: Tensor) -> Tensor:
        a = torch.tanh(m.a(x))
        return m.last(m.act(m.nothing(m.norm(torch.cat([a, torch.tanh(m.b(a))], 1)))))  # type: ignore[no-any-return]

    model = Written(
        forward, a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(4, 4, 1), norm=nn.BatchNorm2d(8), nothing=nn.Identity(),
        act=nn.ReLU(inplace=True), last=nn.Conv2d(8, 2, 1),
    )  # fmt: skip
    result = rewritten(model, (image(3),), ConcatToSum(), only=("*",))
    assert done(result)
    assert not any(node.target == "clone" for graph in result.model.unlike_graphs() for node in graph.nodes)
    assert_agreement(model, result, (image(3),))


def _onto(m: Any, x: Tensor, more: Callable[..., Tensor]) -> Tensor:
    """A concat is added onto a part of another tensor, and more is done with the three."""
    a = torch.tanh(m.a(x))
    y = torch.cat([a, torch.tanh(m.b(a))], 1)
    wide = torch.tanh(m.wide(a)) + 1
    part = wide[:, :8]
    return F.relu(m.last(part.add_(y))) + more(m, wide, part, a)


@pytest.mark.parametrize(("more", "reason"), [
    (lambda m, wide, part, a: a[:, :2], None),
    (lambda m, wide, part, a: m.other(part), None),  # the sum, by another name
    (
        lambda m, wide, part, a: wide[:, :2],
        "alias_with_write (alias_with_write) combines the concatenated channels with another tensor",
    ),
])  # fmt: skip
def test_a_concat_that_is_added_onto_another_tensor(more: Callable[..., Tensor], reason: str | None) -> None:
    """Its parts are added to copies of slices: autograd counts what is written over by whole tensors."""
    model = Written(
        lambda m, x: _onto(m, x, more), a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(4, 4, 1), wide=nn.Conv2d(4, 10, 1),
        last=nn.Conv2d(8, 2, 1), other=nn.Conv2d(8, 2, 1),
    )  # fmt: skip
    result = rewritten(model, (image(3),), ConcatToSum(), only=("*",))
    assert list(reasons(result).values()) == ([reason] if reason else [])
    assert bool(done(result)) == (reason is None)
    assert_agreement(model, result, (image(3),))
    if reason is None:
        result.model = result.undo()
        assert any(node.target in (torch.cat, "cat") for node in result.model.graphs[False].nodes)


def test_a_concat_that_is_added_onto_an_input() -> None:
    """The caller finds the sum in it."""

    def forward(m: Any, x: Tensor, given: Tensor) -> Tensor:
        a = torch.tanh(m.a(x))
        return m.last(given.add_(torch.cat([a, torch.tanh(m.b(a))], 1)))  # type: ignore[no-any-return]

    model = Written(forward, a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(4, 4, 1), last=nn.Conv2d(8, 2, 1))
    result = rewritten(model, (image(3), image(8)), ConcatToSum(), only=("*",))
    assert reasons(result) == {"cat": "add writes over args_1, which the caller of the model has as well"}
