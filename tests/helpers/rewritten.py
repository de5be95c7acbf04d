"""Pairs of modules that compute the same, before and after a rewrite by hand: the oracle of what-if prices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from skipgraph.passes import Delta
from skipgraph.passes.forms import places_within, selected
from tests.helpers.pricing import priced
from tests.helpers.tracing import Written

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from skipgraph.graph import SkipGraph


def conv(inner: int, outer: int, kernel: int = 3, **options: Any) -> nn.Conv2d:
    """A convolution that keeps the resolution."""
    return nn.Conv2d(inner, outer, kernel, padding=kernel // 2, **options)


@dataclass(frozen=True)
class Pair:
    """A module and the same rewritten by hand, and their input; ``buffers`` are constants among the parameters."""

    before: nn.Module
    after: nn.Module
    tensor: Tensor
    buffers: int = 0

    def delta(self) -> Delta:
        """How the two differ, by pricing both."""
        old, new = priced(self.before, self.tensor), priced(self.after, self.tensor)
        return Delta(
            new.cost.flops - old.cost.flops,
            new.cost.parameters - old.cost.parameters - self.buffers,
            new.cost.peak_bytes_last_use - old.cost.peak_bytes_last_use,
            moved(new) - moved(old),
        )


def moved(graph: SkipGraph) -> int:
    """Bytes of activations that operators read and write, views apart."""
    total = 0
    for node, data in graph.nodes(data=True):
        if data["op"] != "input" and not data["is_view"]:
            total += data["bytes_out"]
            total += sum(graph.nodes[operand]["bytes_out"] for operand, _, _ in graph.in_edges(node, keys=True))
    return total


IMAGE = torch.empty(1, 16, 64, 64)
TOKENS = torch.empty(4, 100, 16)


def joined(width: int, outer: int, between: Callable[[Any, Tensor], Tensor], **members: nn.Module) -> nn.Module:
    """Two branches of ``width`` channels, joined, something, and a convolution."""

    def forward(self: Any, x: Tensor) -> Tensor:
        a = self.a(x)
        b = self.b(a)
        return self.last(between(self, torch.cat([a, b], 1)))

    return Written(forward, a=conv(16, width), b=conv(width, width), last=conv(2 * width, outer), **members)


def split(width: int, outer: int) -> nn.Module:
    """What becomes of `joined` without anything between."""

    def forward(self: Any, x: Tensor) -> Tensor:
        a = self.a(x)
        b = self.b(a)
        result = self.first(a)
        del a
        return result.add_(self.second(b))

    members = {"first": conv(width, outer), "second": conv(width, outer, bias=False)}
    return Written(forward, a=conv(16, width), b=conv(width, width), **members)


def split_behind_norm(width: int, outer: int) -> nn.Module:
    """What becomes of `joined` with a norm and an activation between: operand by operand."""

    def forward(self: Any, x: Tensor) -> Tensor:
        a = self.a(x)
        b = self.b(a)
        part = torch.relu(self.norm_a(a))
        del a
        result = self.first(part)
        del part
        part = torch.relu(self.norm_b(b))
        del b
        return result.add_(self.second(part))

    norms = {"norm_a": nn.BatchNorm2d(width), "norm_b": nn.BatchNorm2d(width)}
    members = {"first": conv(width, outer), "second": conv(width, outer, bias=False), **norms}
    return Written(forward, a=conv(16, width), b=conv(width, width), **members)


def selecting(width: int, index: Tensor, *, rewritten: bool) -> nn.Module:
    """A selection of the channels of two operands, and the sum of those of each."""

    def forward(self: Any, x: Tensor) -> Tensor:
        a = self.a(x)
        b = self.b(a)
        if not rewritten:
            both = torch.cat([a, b], 1)
            del a, b
            return self.last(both.index_select(1, self.index))
        result = selected(a, 1, places_within(self.index, 0, width))
        del a
        result.add_(selected(b, 1, places_within(self.index, width, width)))
        del b
        return self.last(result)

    return Written(forward, a=conv(16, width), b=conv(width, width), last=conv(len(index), 8), index=index)


def read_twice(*, rewritten: bool) -> nn.Module:
    """A concat that two convolutions read, and the same split."""

    def forward(self: Any, x: Tensor) -> Tensor:
        a = self.a(x)
        b = self.b(a)
        if not rewritten:
            both = torch.cat([a, b], 1)
            del a, b
            first = self.c(both)
            second = self.d(both)
            del both
        else:
            first = self.c(a).add_(self.c2(b))
            second = self.d(a).add_(self.d2(b))
            del a, b
        return torch.cat([self.e(first), self.f(second)], 1)

    wide = 32 if rewritten else 64
    members = {"c": conv(wide, 24), "d": conv(wide, 24), "e": conv(24, 8), "f": conv(24, 8)}
    if rewritten:
        members |= {"c2": conv(32, 24, bias=False), "d2": conv(32, 24, bias=False)}
    return Written(forward, a=conv(16, 32), b=conv(32, 32), **members)


def nested(*, rewritten: bool) -> nn.Module:
    """A concat that a convolution and a later concat read, and the same with its operands read by both."""

    def forward(self: Any, x: Tensor) -> Tensor:
        a = self.a(x)
        b = self.b(a)
        if not rewritten:
            both = torch.cat([a, b], 1)
            del a, b
            return self.last(torch.relu(torch.cat([both, self.c(both)], 1)))
        c = self.c(a).add_(self.c2(b))
        everything = torch.cat([a, b, c], 1)
        del a, b, c
        return self.last(torch.relu(everything))

    members = {"c": conv(32 if rewritten else 64, 32), "last": conv(96, 8)}
    if rewritten:
        members |= {"c2": conv(32, 32, bias=False)}
    return Written(forward, a=conv(16, 32), b=conv(32, 32), **members)


def summed(second: nn.Module | None, outer: int = 48, *, in_place: bool = False) -> nn.Module:
    """A convolution of a branch, plus a convolution of its source, or plus the source itself."""

    def forward(self: Any, x: Tensor) -> Tensor:
        a = self.a(x)
        h = torch.relu(self.m(a))
        if self.second is not None:
            return self.first(h) + self.second(a)
        if in_place:
            a += self.first(h)
            return a
        return a + self.first(h)

    return Written(forward, a=conv(16, 32), m=conv(32, 32), first=conv(32, outer), second=second)


def concatenated(outer: int = 48) -> nn.Module:
    """What becomes of `summed`."""

    def forward(self: Any, x: Tensor) -> Tensor:
        a = self.a(x)
        h = torch.relu(self.m(a))
        both = torch.cat([h, a], 1)
        del h, a
        return self.last(both)

    return Written(forward, a=conv(16, 32), m=conv(32, 32), last=conv(64, outer))


def normalised(*, rewritten: bool) -> nn.Module:
    """A residual block that ends in a norm, and the same with identities on a concat."""

    def forward(self: Any, x: Tensor) -> Tensor:
        a = self.a(x)
        if not rewritten:
            return a + self.norm(self.b(a))
        h = self.norm(self.b(a))
        both = torch.cat([a, h], 1)
        del a, h
        return self.identities(both)

    members = {"identities": conv(64, 32, 1, bias=False)} if rewritten else {}
    return Written(forward, a=conv(16, 32), b=conv(32, 32), norm=nn.BatchNorm2d(32), **members)


def perceptron(*, rewritten: bool) -> nn.Module:
    """A residual perceptron on tokens, and the same with one linear layer on a concat."""

    def forward(self: Any, x: Tensor) -> Tensor:
        a = self.a(x)
        if not rewritten:
            return a + self.last(torch.relu(self.m(a)))
        h = torch.relu(self.m(a))
        both = torch.cat([a, h], -1)
        del a, h
        return self.last(both)

    last = nn.Linear(96 if rewritten else 64, 32)
    return Written(forward, a=nn.Linear(16, 32), m=nn.Linear(32, 64), last=last)
