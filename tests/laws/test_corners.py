"""Corners in which laws, the order of calls and the way back have met: each computes the same, there and back."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipgraph.errors import PlanError
from skipgraph.passes import ConcatToSum
from skipgraph.passes.state_map import StateMap
from skipgraph.rewriting import undo
from tests.helpers.tracing import Written
from tests.laws.agreement import assert_agreement, done, reasons, rewritten
from tests.laws.drawing import image

if TYPE_CHECKING:
    from collections.abc import Callable

cat = torch.cat


def two(m: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    a = torch.tanh(m.a(x))
    return a, torch.tanh(m.b(a))


def built(forward: Callable[..., Any], **members: Any) -> nn.Module:
    torch.manual_seed(0)
    convs = {name: nn.Conv2d(width, 4, 1) for name, width in {"a": 3, "b": 4, "c": 3, "d": 3}.items()}
    return Written(forward, **convs, last=nn.Conv2d(8, 2, 1), other=nn.Conv2d(8, 2, 1), **members)


def slopes(m: Any, x: Tensor) -> Any:
    a, b = two(m, x)
    return m.last(m.p(cat([a, b], 1))) + m.p(m.other(cat([b, a], 1)))


def shared_norm(m: Any, x: Tensor) -> Any:
    a, b = two(m, x)
    y, z = m.n(cat([a, b], 1)), m.n(cat([torch.sin(m.c(x)), b], 1))
    return m.w(cat([y, z, a], 1))


def unused(m: Any, x: Tensor) -> Any:
    y = cat(two(m, x), 1)
    _ = y * torch.sigmoid(y)
    return m.last(y)


def called_twice_for_one(m: Any, x: Tensor) -> Any:
    y = cat(two(m, x), 1)
    return m.last(F.relu(y)) * m.last(torch.sin(y))


def added_to_itself(m: Any, x: Tensor) -> Any:
    y = cat(two(m, x), 1)
    return m.last(F.relu(y)) - m.last(y) + m.last(y)


def later_first(m: Any, x: Tensor) -> Any:
    a, b = torch.tanh(m.a(x)), torch.tanh(m.c(x))
    y, z = cat([a, b], 1), cat([m.b(a), a], 1)
    return m.last(z) + m.last(m.drop(y))


def interleaved(m: Any, x: Tensor) -> Any:
    a, b = two(m, x)
    c = torch.sin(m.c(x))
    y0 = cat([a, b], 1)
    r0 = m.last(y0)
    r2 = m.last(cat([b, c], 1) * 2)
    y5 = cat([c, a], 1)
    return r0 + r2 + m.last(torch.sin(y5)) + m.other(y0 + y5)


def first_in_common(m: Any, x: Tensor) -> Any:
    a, b = two(m, x)
    return m.last(cat([a, b], 1) - cat([a, torch.sin(m.c(x))], 1)) + m.other(cat([a, b], 1) + cat([a, a], 1))


def broadcast_part(m: Any, x: Tensor) -> Any:
    a, b = (one[:, :1] for one in two(m, x))
    return m.l(cat([a, b], 1) - a)


def in_place_meeting(m: Any, x: Tensor) -> Any:
    a, b = two(m, x)
    y, z = F.relu(cat([a, b], 1), inplace=True), cat([torch.sin(a), torch.cos(b)], 1)
    z.mul_(y)
    return m.last(z) + m.last(y)


def equal_concats(m: Any, x: Tensor) -> Any:
    a, b = two(m, x)
    y1, y2 = cat([a, b], 1), cat([a, b], 1)
    y2.relu_()
    return m.last(y1) + m.other(F.layer_norm(y2, y2.shape[1:]))


def flattened_parts(m: Any, x: Tensor) -> Any:
    a, b = two(m, x)
    return m.v(cat([m.n(cat([a, b], 1)), a], 1)) + m.last(m.n(cat([b, torch.sin(m.c(x))], 1)))


def weight_read_beside(m: Any, x: Tensor) -> Any:
    return m.last(cat(two(m, x), 1)) * m.last.weight.sum()


def flattening_view(m: Any, x: Tensor) -> Any:
    a, b = torch.tanh(m.a(x))[:, :1] * 1.0, torch.tanh(m.e(x))
    z = F.relu(m.flat(cat([a, b], 1).transpose(1, 2)), inplace=True)
    return m.lin(z).mean((1, 2)) + m.o(a).mean((1, 2, 3))


CORNERS: dict[str, tuple[Callable[..., Any], dict[str, Callable[[], nn.Module]]]] = {
    "one slope for all channels": (slopes, {"p": nn.PReLU}),
    "a norm of two concats": (shared_norm, {"n": lambda: nn.GroupNorm(2, 8), "w": lambda: nn.Conv2d(20, 2, 1)}),
    "a depthwise layer of two concats": (
        shared_norm, {"n": lambda: nn.Conv2d(8, 8, 3, padding=1, groups=8), "w": lambda: nn.Conv2d(20, 2, 1)}
    ),
    "a result that nobody reads": (unused, {}),
    "two calls for one concat": (called_twice_for_one, {}),
    "a sum of calls of one layer": (added_to_itself, {}),
    "the later concat is read first": (later_first, {"drop": lambda: nn.Dropout(0.0)}),
    "a joint site around others": (interleaved, {}),
    "one first operand": (first_in_common, {}),
    "an operand that is broadcast as well": (broadcast_part, {"l": lambda: nn.Conv2d(2, 2, 1)}),
    "a meeting in place": (in_place_meeting, {}),
    "equal concats, one written over": (equal_concats, {}),
    "parts that a concat joins": (flattened_parts, {"n": lambda: nn.GroupNorm(2, 8), "v": lambda: nn.Conv2d(12, 2, 1)}),
    "a weight that is read beside": (weight_read_beside, {}),
    "flattening that is a view of a part": (
        flattening_view,
        {
            "e": lambda: nn.Conv2d(3, 3, 1), "flat": lambda: nn.Flatten(2, 3), "lin": lambda: nn.Linear(24, 2),
            "o": lambda: nn.Conv2d(1, 2, 1),
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CORNERS)
def test_there_and_back(name: str) -> None:
    forward, members = CORNERS[name]
    model = built(forward, **{key: make() for key, make in members.items()})
    result = rewritten(model, (image(3),), ConcatToSum(), only=("*",))
    assert done(result), reasons(result)
    assert_agreement(model, result, (image(3),))
    back = copy.copy(result)
    back.model = result.undo()
    assert list(back.model.state_dict()) == list(model.state_dict())
    assert_agreement(model, _unmapped(back), (image(3),))


def _unmapped(result: Any) -> Any:
    """A model that is the original again, by the original's names."""
    result.plan = replace(result.plan, state_map=StateMap())
    return result


def written_beside(m: Any, x: Tensor) -> Any:
    g = torch.sin(m.g(x))
    p = cat(two(m, x), 1) + g
    g.add_(1.5)
    return m.last(p) + m.other(g)


def onto_a_buffer(m: Any, x: Tensor) -> Any:
    return m.last(m.buf[:, :8].add_(cat(two(m, x), 1).detach())) + m.other(cat(two(m, x), 1)).sum() * 0


def with_a_constant(m: Any, x: Tensor) -> Any:
    a, b = two(m, x)
    return m.last(cat([torch.ones(2, 4, 6, 6), a[:, :3], b[:, :1]], 1))


def swapped_in_training(m: Any, x: Tensor) -> Any:
    y, w = cat(two(m, x), 1), m.g(x)
    return m.last(y) + m.other(w) if m.training else m.other(y) + m.last(w)


def ordered_in_training(m: Any, x: Tensor) -> Any:
    a, b = two(m, x)
    return m.l(cat([a, b[:, :2]], 1) if m.training else cat([b[:, :2], a], 1))


@pytest.mark.parametrize(("forward", "members", "reason"), [
    (written_beside, {"g": (3, 8)}, "which is read by"),
    (onto_a_buffer, {}, "writes over buf, which is not the forward's own"),
    (with_a_constant, {}, "cat joins a constant as well"),
    (swapped_in_training, {"g": (3, 8)}, "is called otherwise in training"),
    (ordered_in_training, {"l": (6, 2)}, "l is called otherwise in training"),
])  # fmt: skip
def test_what_is_left_alone(forward: Callable[..., Any], members: dict[str, tuple[int, int]], reason: str) -> None:
    model = built(forward, **{name: nn.Conv2d(*widths, 1) for name, widths in members.items()})
    model.register_buffer("buf", torch.zeros(2, 10, 6, 6))
    result = rewritten(model, (image(3),), ConcatToSum(), only=("*",))
    assert any(reason in told for told in reasons(result).values()), reasons(result)


def test_a_plan_of_another_model_is_refused() -> None:
    forwards = (interleaved, called_twice_for_one)
    one, other = (rewritten(built(each), (image(3),), ConcatToSum(), only=("*",)) for each in forwards)
    with pytest.raises(PlanError, match="are not found in the model"):
        undo(other.model, one.plan)
