"""Where a model switches gradients off, or autocast on: what runs there goes on running there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from skipgraph.passes import ConcatToSum, SumToConcat
from tests.helpers.tracing import Written
from tests.laws.agreement import assert_agreement, done, reasons, rewritten
from tests.laws.drawing import branches, image


def _joined(m: Any, x: Tensor) -> Tensor:
    return torch.cat([branch(x) for branch in m.branches], 1)


def _heads(y: Tensor) -> Tensor:
    q, k, v = y.reshape(len(y), -1, 6, 36).transpose(2, 3).chunk(3, -1)
    return (q @ k.transpose(-1, -2) @ v).transpose(2, 3).reshape(len(y), -1, 6, 6)


def _ends_gradients(m: Any, x: Tensor) -> Tensor:
    parts = [branch(x) for branch in m.branches]
    with torch.no_grad():
        joined = torch.cat(parts, 1)
    return m.last(_heads(joined)) + m.first(parts[0])  # type: ignore[no-any-return]


def _all_within(m: Any, x: Tensor) -> Tensor:
    parts = [branch(x) for branch in m.branches]
    with torch.no_grad():
        inner = m.last(_heads(torch.cat(parts, 1)))
    return inner * m.first(parts[0])  # type: ignore[no-any-return]


def _operands_within(m: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        joined = _joined(m, x)
    with torch.enable_grad():
        return m.last(_heads(joined)) + m.first(x)  # type: ignore[no-any-return]


def _carried_within(m: Any, x: Tensor) -> Tensor:
    """Slopes that are not trained, whose parts would be if they were put in front of the layer."""
    with torch.no_grad():
        carried = m.slopes(_joined(m, x))
    return m.last(_heads(carried)) + m.first(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize(("forward", "told"), [
    (_ends_gradients, "reshape runs with other gradients, or in another precision, than cat"),
    (_all_within, None),
    (_operands_within, None),
    (_carried_within, None),
])  # fmt: skip
def test_gradients_end_where_they_ended(forward: Any, told: str | None) -> None:
    first = nn.Conv2d(3 if forward in (_operands_within, _carried_within) else 6, 2, 1)
    members = {"slopes": nn.PReLU(18)} if forward is _carried_within else {}
    model = Written(forward, branches=branches([6, 12]), first=first, last=nn.Conv2d(6, 2, 1), **members)
    result = rewritten(model, (image(3),), ConcatToSum(), only=("*",))
    assert (done(result), list(reasons(result).values())) == ((["cat"], []) if told is None else ([], [told]))
    assert_agreement(model, result, (image(3),))


def test_products_are_in_half_precision_where_they_were() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        parts = [branch(x) for branch in m.branches]
        with torch.autocast("cpu", torch.bfloat16):
            y = torch.cat(parts, 1)
            y = m.last(_heads(y))
        return y.float()  # type: ignore[no-any-return]

    torch.manual_seed(0)
    model = Written(forward, branches=branches([6, 12]), last=nn.Conv2d(6, 2, 1)).eval()
    x = image(3)
    result = rewritten(model, (x,), ConcatToSum(), only=("*",))
    assert done(result) == ["cat"], reasons(result)
    exact = model.last(_heads(_joined(model, x)))  # type: ignore[operator]
    wanted, got = (one.eval()(x) for one in (model, result.model))
    scale = exact.abs().max()
    assert (got - wanted).abs().max() < 0.03 * scale
    assert (got - exact).abs().max() > 1e-4 * scale


def test_a_layer_without_gradients_stays_out_of_a_sum() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            a = m.a(x)
        return torch.tanh(a + m.b(x) + m.c(x))

    model = Written(forward, a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(3, 4, 1), c=nn.Conv2d(3, 4, 1))
    result = rewritten(model, (image(3),), SumToConcat(), only=("*",))
    assert list(reasons(result).values()) == ["a runs with other gradients, or in another precision, than add_1"]
    assert_agreement(model, result, (image(3),))
