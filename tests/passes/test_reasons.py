"""Every reason for which a merge is left alone: a model that is refused for it, and the same without the cause."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from skipgraph.passes import ConcatToSum, SumToConcat
from skipgraph.rewriting import Rewrite
from tests.helpers.tracing import Written
from tests.laws.agreement import assert_agreement, done, reasons, rewritten

Forward = Callable[[Any, Tensor], Any]

IMAGE = (torch.rand(2, 4, 6, 6),)
TOKENS = (torch.rand(2, 5, 4),)
VECTORS = (torch.rand(5, 4),)


def conv(inner: int = 4, outer: int = 4, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inner, outer, 3, padding=options.pop("padding", 1), **options)


def hooked(module: nn.Module) -> nn.Module:
    module.register_forward_hook(_watch)
    return module


def _watch(module: nn.Module, args: Any, result: Any) -> None:
    """A hook that does nothing."""


def tied(first: Any, second: Any) -> dict[str, nn.Module]:
    second.weight = first.weight
    return {"last": first, "other": second}


def both(self: Any, x: Tensor) -> Tensor:
    return torch.cat([x, self.a(x)], 1)


def features(self: Any, x: Tensor) -> Tensor:
    return torch.cat([x, self.a(x)], -1)


def last(self: Any, x: Tensor) -> Tensor:
    return self.last(both(self, x))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Case:
    """A forward that is refused at ``merge``, and one that is not; ``without`` are the members that differ."""

    blocked: Forward
    free: Forward | None = None
    members: dict[str, Any] = field(default_factory=dict)
    without: dict[str, Any] = field(default_factory=dict)
    inputs: tuple[Tensor, ...] = IMAGE
    merge: str = "cat"
    free_merge: str = ""
    rewrite: Rewrite | None = None
    free_rewrite: Rewrite | None = None


def returns_both(self: Any, x: Tensor) -> Any:
    joined = both(self, x)
    return self.last(joined), joined


def returns_carried(self: Any, x: Tensor) -> Any:
    joined = torch.sigmoid(both(self, x))
    return self.last(joined), joined


def writes_early(self: Any, x: Tensor) -> Any:
    a = self.a(x)
    joined = torch.cat([x, a], 1)
    a.mul_(2.0)
    return self.last(torch.sigmoid(joined)) + a.mean()


def writes_elsewhere(self: Any, x: Tensor) -> Any:
    a = self.a(x)
    joined = torch.cat([x, a], 1)
    a = a * 2.0
    return self.last(torch.sigmoid(joined)) + a.mean()


def nested_with_softmax(self: Any, x: Tensor) -> Any:
    inner = torch.sigmoid(both(self, x))
    return self.last(torch.cat([inner, self.other(x)], 1).softmax(1))


def nested_with_sigmoid(self: Any, x: Tensor) -> Any:
    inner = torch.sigmoid(both(self, x))
    return self.last(torch.cat([inner, self.other(x)], 1).sigmoid())


def nested_and_read(self: Any, x: Tensor) -> Any:
    inner = both(self, x)
    return self.last(self.deep(torch.cat([inner, self.other(x)], 1))) + self.inner(inner)


def in_evaluation(self: Any, x: Tensor) -> Any:
    return self.short(x) if self.training else self.last(both(self, x))


def in_both(self: Any, x: Tensor) -> Any:
    return self.last(both(self, x)) + self.short(x) * float(self.training)


WIDE = {"other": nn.Conv2d(4, 8, 1)}

CONCATS: dict[str, Case] = {
    "the concat is also a model output": Case(returns_both, last),
    "sigmoid, which carries the concatenated channels on, is also a model output": Case(
        returns_carried, lambda self, x: self.last(torch.sigmoid(both(self, x)))
    ),
    "norm (layer_norm) normalises across the concatenated channels": Case(
        lambda self, x: self.last(self.norm(both(self, x))),
        members={"norm": nn.LayerNorm([8, 6, 6])},
        without={"norm": nn.BatchNorm2d(8)},
    ),
    "_unsafe_view rearranges the concatenated channels": Case(
        lambda self, x: self.last(both(self, x).reshape(-1, 2, 4, 6, 6).transpose(1, 2).reshape(-1, 8, 6, 6)), last
    ),
    "slice takes a slice of the concatenated channels": Case(
        lambda self, x: self.last(both(self, x)[:, 2:]),
        lambda self, x: self.last(both(self, x)[:, :, 2:]),
        {"last": conv(6, 3)},
        {"last": conv(8, 3)},
    ),
    "maximum (maximum) combines the concatenated channels with another tensor": Case(
        lambda self, x: self.last(torch.maximum(both(self, x), self.other(x))),
        lambda self, x: self.last(torch.mul(both(self, x), self.other(x))),
        WIDE,
    ),
    "softmax (softmax) reads the concatenated channels together": Case(
        lambda self, x: self.last(both(self, x).softmax(1)), lambda self, x: self.last(both(self, x).sigmoid())
    ),
    "mean (mean) reads the concatenated channels together": Case(
        lambda self, x: (lambda joined: self.last(joined) + joined.mean(1, keepdim=True))(both(self, x)), last
    ),
    "m (lstm) reads the concatenated channels together": Case(
        lambda self, x: self.m(features(self, x))[0],
        lambda self, x: self.m(features(self, x)),
        {"a": nn.Linear(4, 4), "m": nn.LSTM(8, 3, batch_first=True)},
        {"m": nn.Linear(8, 3)},
        TOKENS,
    ),
    "m (multi_head_attention) reads the concatenated channels together": Case(
        lambda self, x: self.m(*[features(self, x)] * 3, need_weights=False)[0],
        lambda self, x: self.m(features(self, x)),
        {"a": nn.Linear(4, 4), "m": nn.MultiheadAttention(8, 2, batch_first=True)},
        {"m": nn.Linear(8, 8)},
        TOKENS,
    ),
    "a group of 8 channels of norm straddles the boundary at channel 4": Case(
        lambda self, x: self.last(self.norm(both(self, x))),
        members={"norm": nn.GroupNorm(1, 8)},
        without={"norm": nn.GroupNorm(2, 8)},
    ),
    "a group of deep straddles the boundary at channel 4": Case(
        nested_and_read,
        members={"other": nn.Conv2d(4, 8, 1), "deep": conv(16, 16, groups=2), "last": conv(16, 3), "inner": conv(8, 3)},
        without={"deep": conv(16, 16, groups=4)},
        merge="cat_1",
    ),
    "cat joins its operands along the space axis": Case(
        lambda self, x: self.last(torch.cat([x, self.a(x)], 2)),
        last,
        {"last": conv(4, 3)},
        {"last": conv(8, 3)},
    ),
    "mul writes over a, an operand of cat, which its parts would still need": Case(writes_early, writes_elsewhere),
    "cat is part of torch.hstack, which does more than join": Case(
        lambda self, x: self.last(torch.hstack([x, self.a(x)])), last
    ),
    "add was rewritten with an earlier site": Case(
        lambda self, x: self.last(both(self, x) + torch.cat([self.few(x), self.more(x)], 1)),
        lambda self, x: self.last(both(self, x)) + self.last2(torch.cat([self.few(x), self.more(x)], 1)),
        {"few": conv(4, 2), "more": conv(4, 6), "last2": conv(8, 3)},
        merge="cat_1",
    ),
    "zeros_like reads cat too, out of sight of the graph of operators": Case(
        lambda self, x: (lambda joined: self.last(joined + torch.zeros_like(joined)))(both(self, x)), last
    ),
    "max_pool2d_with_indices (max_pool2d_with_indices) makes several tensors": Case(
        lambda self, x: self.last(F.max_pool2d(both(self, x), 2, return_indices=True)[0]),
        lambda self, x: self.last(F.max_pool2d(both(self, x), 2)),
    ),
    "einsum (einsum) is no call whose weight can be split": Case(
        lambda self, x: torch.einsum("blc,oc->blo", features(self, x), self.weight),
        lambda self, x: F.linear(features(self, x), self.weight),
        {"a": nn.Linear(4, 4), "weight": nn.Parameter(torch.rand(3, 8))},
        inputs=TOKENS,
    ),
    "addmm (addmm) is no call whose weight can be split": Case(
        lambda self, x: torch.addmm(self.bias, features(self, x), self.weight),
        lambda self, x: torch.mm(features(self, x), self.weight) + self.bias,
        {"a": nn.Linear(4, 4), "bias": nn.Parameter(torch.rand(3)), "weight": nn.Parameter(torch.rand(8, 3))},
        inputs=VECTORS,
    ),
    "gru_cell (gru_cell) is no call whose weight can be split": Case(
        lambda self, x: self.m(features(self, x), self.start),
        lambda self, x: self.m(features(self, x)),
        {"a": nn.Linear(4, 4), "m": nn.GRUCell(8, 3), "start": nn.Parameter(torch.rand(5, 3))},
        {"m": nn.Linear(8, 3)},
        VECTORS,
    ),
    "lstm_cell (lstm_cell) makes several tensors": Case(
        lambda self, x: self.m(features(self, x), (self.start, self.start))[0],
        lambda self, x: self.m(features(self, x)),
        {"a": nn.Linear(4, 4), "m": nn.LSTMCell(8, 3), "start": nn.Parameter(torch.rand(5, 3))},
        {"m": nn.Linear(8, 3)},
        VECTORS,
    ),
    "true_divide (true_divide) reads another tensor beside the concatenated channels": Case(
        lambda self, x: self.last(torch.true_divide(both(self, x), self.other(x))),
        lambda self, x: self.last(torch.mul(both(self, x), self.other(x))),
        WIDE,
    ),
    "last (NonDynamicallyQuantizableLinear) is no layer that can be cut": Case(
        lambda self, x: self.last(features(self, x)),
        members={"a": nn.Linear(4, 4), "last": nn.modules.linear.NonDynamicallyQuantizableLinear(8, 3)},
        without={"last": nn.Linear(8, 3)},
        inputs=TOKENS,
    ),
    "last is called 2 times, with one and the same weight": Case(
        lambda self, x: self.last(both(self, x)) + self.last(self.other(x)),
        lambda self, x: self.last(both(self, x)) + self.last2(self.other(x)),
        {**WIDE, "last": conv(8, 3, padding_mode="reflect"), "last2": conv(8, 3)},
    ),
    "the weight of last is computed anew in each forward (a parametrization)": Case(
        last, members={"last": parametrizations.weight_norm(conv(8, 3))}, without={"last": conv(8, 3)}
    ),
    "last has hooks, which expect the whole layer": Case(
        last, members={"last": hooked(conv(8, 3))}, without={"last": conv(8, 3)}
    ),
    "last.weight is tied to other": Case(
        lambda self, x: self.last(both(self, x)) + self.other(self.wide(x)),
        members={**tied(conv(8, 3, padding_mode="reflect"), conv(8, 3)), "wide": nn.Conv2d(4, 8, 1)},
        without={"other": conv(8, 3)},
    ),
    "cat is not there in training": Case(in_evaluation, in_both, {"short": conv(4, 3)}),
    "cat_1, which joins what cat joins, stays": Case(
        nested_with_softmax, nested_with_sigmoid, {**WIDE, "last": conv(16, 3)}
    ),
}


def layers(self: Any, x: Tensor) -> Any:
    return torch.tanh(self.a(x) + self.b(torch.relu(x)))


def residual(self: Any, x: Tensor) -> Any:
    return x + self.norm(self.a(x))


ONLY = "only identities fit in front of add, which remove nothing: {}; --allow-identity does it"
NORM = {"norm": nn.BatchNorm2d(4)}
SUM = SumToConcat()

SUMS: dict[str, Case] = {
    "b is broadcast in add": Case(
        lambda self, x: self.a(x) + self.b(x.mean((2, 3), keepdim=True)), lambda self, x: self.a(x) + self.b(x)
    ),
    ONLY.format("norm stands between a and the sum"): Case(
        residual, members=NORM, rewrite=SUM, free_rewrite=SumToConcat(eval_only=True)
    ),
    ONLY.format("relu is no linear layer's result"): Case(
        lambda self, x: torch.relu(self.a(x)) + torch.sigmoid(self.b(x)), lambda self, x: self.a(x) + torch.sigmoid(x)
    ),
    ONLY.format("a is no linear layer's result"): Case(
        lambda self, x: self.a(x) + self.b(torch.relu(x)),
        members={"a": conv(groups=2), "b": conv(groups=2)}, without={"a": conv()},
    ),
    ONLY.format("a and b cannot share one window"): Case(
        layers, members={"b": conv(padding=2, dilation=2)}, without={"b": conv()}
    ),
    ONLY.format("a_1 shares its weight with another call"): Case(
        lambda self, x: x + self.a(torch.relu(self.a(x))), lambda self, x: x + self.a(torch.relu(self.b(x)))
    ),
    ONLY.format("a is read by others too"): Case(
        lambda self, x: (lambda y: (x + y) * torch.tanh(y))(self.a(x)),
        lambda self, x: (x + self.a(x)) * torch.tanh(x),
    ),
    "add does more than add two tensors": Case(
        lambda self, x: torch.add(self.a(x), self.b(x), alpha=2), lambda self, x: torch.add(self.a(x), self.b(x))
    ),
    "sum_1 does more than add two tensors": Case(
        lambda self, x: torch.stack([self.a(x), self.b(x)]).sum(0), lambda self, x: sum([self.a(x), self.b(x)]),
        merge="sum", free_merge="*",
    ),
    "contiguous reads add, which is only a part of the sum": Case(
        lambda self, x: (self.a(x) + self.b(x)).contiguous() + self.c(x),
        lambda self, x: self.a(x) + self.b(x) + self.c(x), merge="add_1",
    ),
    "view stands between a and the sum": Case(
        lambda self, x: self.a(x).flatten(2) + self.b(x).flatten(2), lambda self, x: (self.a(x) + self.b(x)).flatten(2)
    ),
    "conv2d is no layer of torch.nn": Case(
        lambda self, x: F.conv2d(x, self.c.weight, self.c.bias, padding=1) + self.b(x),
        lambda self, x: self.c(x) + self.b(x),
    ),
    "a has hooks, which would not run any more": Case(layers, members={"a": hooked(conv())}, without={"a": conv()}),
    "norm has hooks, which would not run any more": Case(
        residual, members={"norm": hooked(nn.BatchNorm2d(4))}, without=NORM, rewrite=SumToConcat(eval_only=True)
    ),
    "a pads its input by reflect, not by zeros": Case(
        lambda self, x: self.a(x) + self.c2(x),
        members={"a": nn.Conv2d(4, 4, 1, padding_mode="reflect"), "c2": nn.Conv2d(4, 4, 1)},
        without={"a": nn.Conv2d(4, 4, 1)},
    ),
    "the weight of a is computed anew in each forward (a parametrization)": Case(
        layers, members={"a": parametrizations.weight_norm(conv())}, without={"a": conv()}
    ),
    "a (NonDynamicallyQuantizableLinear) is no layer that can be merged": Case(
        layers, members={"a": nn.modules.linear.NonDynamicallyQuantizableLinear(4, 4), "b": nn.Linear(4, 4)},
        without={"a": nn.Linear(4, 4)}, inputs=TOKENS,
    ),
    "zeros_like reads a too": Case(
        lambda self, x: (lambda y: torch.tanh(y + self.b(x)) * torch.zeros_like(y))(self.a(x)),
        lambda self, x: torch.tanh(self.a(x) + self.b(x)) * torch.zeros_like(x),
    ),
}  # fmt: skip


def made(forward: Forward, members: dict[str, Any]) -> nn.Module:
    common = {"a": conv(), "b": conv(), "c": conv(), "last": conv(8, 3)}
    return Written(forward, **{**common, **members})


@pytest.mark.parametrize("reason", [*CONCATS, *SUMS])
def test_refused_for_a_cause_and_rewritten_without_it(reason: str) -> None:
    case = CONCATS[reason] if reason in CONCATS else SUMS[reason]
    sums = reason in SUMS
    merge = "add" if sums and case.merge == "cat" else case.merge
    rewrite = case.rewrite or (SUM if sums else ConcatToSum())
    refused = reasons(rewritten(made(case.blocked, case.members), case.inputs, rewrite, only=("*",)))
    assert refused.get(merge) == reason, refused
    model = made(case.free or case.blocked, {**case.members, **case.without})
    result = rewritten(model, case.inputs, case.free_rewrite or rewrite, only=("*",))
    assert merge in done(result) or (case.free_merge == "*" and done(result)), reasons(result)
    assert_agreement(model, result, case.inputs)
