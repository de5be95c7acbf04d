"""Where a sum can become a layer on a concat, and what it would change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from skipgraph.passes import Refusal, SumToConcat
from skipgraph.passes.sum_to_concat import Site
from tests.helpers.pricing import priced
from tests.helpers.rewritten import (
    IMAGE,
    TOKENS,
    Pair,
    concatenated,
    conv,
    normalised,
    perceptron,
    summed,
)
from tests.helpers.tracing import Written

if TYPE_CHECKING:
    from torch import Tensor

PAIRS = {
    "two layers": lambda: Pair(summed(conv(32, 48)), concatenated(), IMAGE),
    "unlike kernels": lambda: Pair(summed(conv(32, 48, 1)), concatenated(), IMAGE),
    "identity": lambda: Pair(summed(None, 32), concatenated(32), IMAGE, buffers=32 * 32 * 9),
    "in place": lambda: Pair(summed(None, 32, in_place=True), concatenated(32), IMAGE, buffers=32 * 32 * 9),
    "norm between": lambda: Pair(normalised(rewritten=False), normalised(rewritten=True), IMAGE, buffers=64 * 32),
    "tokens": lambda: Pair(perceptron(rewritten=False), perceptron(rewritten=True), TOKENS, buffers=32 * 32),
}


def only(model: nn.Module, tensor: Tensor = IMAGE) -> Site | Refusal:
    (found,) = SumToConcat().find(priced(model, tensor))
    return found


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("threads", [1, 2])
def test_prices_are_those_of_the_model_rewritten_by_hand(name: str, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)  # kernels' workspaces depend on it
    try:
        pair = PAIRS[name]()
        site = only(pair.before, pair.tensor)
        assert isinstance(site, Site)
        price, expected = SumToConcat().price(site), pair.delta()
    finally:
        torch.set_num_threads(before)
    assert (price.flops, price.bytes_moved) == (expected.flops, expected.bytes_moved)
    assert price.parameters == 0  # the one weight is laid out of those that are there
    assert price.peak_bytes == expected.peak_bytes


def test_identities_in_front_of_a_norm_cost_two_squares_a_position() -> None:
    site = only(normalised(rewritten=False))
    assert isinstance(site, Site)
    assert SumToConcat().price(site).flops == 2 * 32 * 32 * 64 * 64
    assert site.reason == "only identities fit in front of add, which remove nothing: norm stands between b and the sum"


def reasons(forward: Any, **members: nn.Module) -> str:
    return only(Written(forward, **members)).reason


def test_layers_that_others_read_stay() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.b(torch.relu(self.a(x)))
        return (x + y) * torch.tanh(y)

    assert reasons(forward, a=conv(16, 16), b=conv(16, 16)).endswith("b is read by others too")


def test_shared_weights_stay() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return x + self.a(torch.relu(self.a(x)))

    assert "shares its weight with another call" in reasons(forward, a=conv(16, 16))


def test_windows_that_do_not_fit_stay() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return self.short(x) + self.b(torch.relu(self.a(x)))

    members = {"short": nn.Conv2d(16, 8, 1, stride=2), "a": conv(16, 16), "b": conv(16, 8, stride=2)}
    assert reasons(forward, **members) == "short and b become one layer on a concat"
    members = {"short": nn.Conv2d(16, 8, 1, stride=2), "a": conv(16, 16, stride=2), "b": conv(16, 8)}
    assert reasons(forward, **members).endswith("short and b cannot share one window")


def test_a_kernel_fits_where_padding_puts_it_on_a_tap() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return self.short(x) + self.b(torch.relu(self.a(x)))

    members = {"a": conv(16, 16), "b": nn.Conv2d(16, 8, 3, padding=2, dilation=2)}
    assert reasons(forward, short=nn.Conv2d(16, 8, 1), **members) == "short and b become one layer on a concat"
    assert "cannot share" in reasons(forward, short=conv(16, 8), **members)


def test_broadcast_operands_are_refused() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return self.a(x) + self.b(x.mean((2, 3), keepdim=True))

    found = only(Written(forward, a=conv(16, 16), b=conv(16, 16)))
    assert isinstance(found, Refusal)
    assert (found.status, found.reason) == ("blocked", "b is broadcast in add")
