"""The measure of sameness itself: what is the same, and what is not."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tests.helpers.sameness import canonical, difference
from tests.helpers.tracing import Written, detected


def test_spellings_of_a_concat_are_the_same() -> None:
    def flat(self: Any, x: Tensor, y: Tensor) -> Tensor:
        return self.last(torch.cat([x, y, self.a(x)], 1))

    def nested(self: Any, x: Tensor, y: Tensor) -> Tensor:
        return self.last(torch.cat([torch.cat([torch.cat([x], 1), y], 1), self.a(x)], 1))

    def swapped(self: Any, x: Tensor, y: Tensor) -> Tensor:
        return self.last(torch.cat([y, x, self.a(x)], 1))

    def other(self: Any, x: Tensor, y: Tensor) -> Tensor:
        return self.last(torch.cat([x, y, self.a(y)], 1))

    inputs = (torch.empty(1, 4, 8, 8), torch.empty(1, 4, 8, 8))
    graphs = [
        detected(Written(one, a=nn.Conv2d(4, 4, 1), last=nn.Conv2d(12, 4, 1)), inputs)
        for one in (flat, nested, swapped, other)
    ]
    assert difference(graphs[0], graphs[1]) == ""
    assert [difference(graphs[0], graph) for graph in graphs[2:]] == ["the same nodes, otherwise connected"] * 2


def test_equal_concats_are_shared_and_sums_have_no_order() -> None:
    def twice(self: Any, x: Tensor, y: Tensor) -> Tensor:
        return self.a(torch.cat([x, y], 1)) + self.b(torch.cat([x, y], 1))

    def once(self: Any, x: Tensor, y: Tensor) -> Tensor:
        both = torch.cat([x, y], 1)
        return self.b(both) + self.a(both)

    def less(self: Any, x: Tensor, y: Tensor) -> Tensor:
        both = torch.cat([x, y], 1)
        return self.b(both) - self.a(both)

    inputs = (torch.empty(1, 4, 8, 8), torch.empty(1, 4, 8, 8))
    layers = {"a": nn.Conv2d(8, 4, 1), "b": nn.Conv2d(8, 4, 1)}
    graphs = [detected(Written(one, **layers), inputs) for one in (twice, once, less)]
    assert len(canonical(graphs[0])) == len(graphs[0]) - 1
    assert difference(graphs[0], graphs[1]) == ""
    assert difference(graphs[0], graphs[2]) != ""
