"""Where a concat can become a sum, why not elsewhere, and what it would change."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from skipgraph.passes import ConcatToSum, Delta, Refusal
from skipgraph.passes.concat_to_sum import Site
from tests.helpers.pricing import priced
from tests.helpers.rewritten import IMAGE, Pair, conv, joined, nested, read_twice, selecting, split, split_behind_norm
from tests.helpers.tracing import Written

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


def plain(self: Any, x: Tensor) -> Tensor:
    return x


def normed(self: Any, x: Tensor) -> Tensor:
    return torch.relu(self.norm(x))


CHOSEN = torch.arange(40) % 16
PAIRS = {
    "plain": lambda: Pair(joined(32, 32, plain), split(32, 32), IMAGE),
    "wide result": lambda: Pair(joined(32, 128, plain), split(32, 128), IMAGE),
    "few results": lambda: Pair(joined(32, 8, plain), split(32, 8), IMAGE),
    "odd channels": lambda: Pair(joined(20, 24, plain), split(20, 24), IMAGE),
    "wide operands": lambda: Pair(joined(64, 16, plain), split(64, 16), IMAGE),
    "read twice": lambda: Pair(read_twice(rewritten=False), read_twice(rewritten=True), IMAGE),
    "nested": lambda: Pair(nested(rewritten=False), nested(rewritten=True), IMAGE),
    "norm between": lambda: Pair(joined(32, 32, normed, norm=nn.BatchNorm2d(64)), split_behind_norm(32, 32), IMAGE),
    "norm, wide": lambda: Pair(joined(64, 16, normed, norm=nn.BatchNorm2d(128)), split_behind_norm(64, 16), IMAGE),
    "selection": lambda: Pair(*(selecting(32, CHOSEN, rewritten=done) for done in (False, True)), IMAGE),
    "many selected": lambda: Pair(*(selecting(8, CHOSEN, rewritten=done) for done in (False, True)), IMAGE),
}


def only(model: nn.Module, tensor: Tensor = IMAGE) -> Site | Refusal:
    (found,) = ConcatToSum().find(priced(model, tensor))
    return found


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("threads", [1, 2])
def test_prices_are_those_of_the_model_rewritten_by_hand(name: str, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)  # kernels' workspaces depend on it
    try:
        pair = PAIRS[name]()
        site = ConcatToSum().find(priced(pair.before, pair.tensor))[0]
        assert isinstance(site, Site)
        price = ConcatToSum().price(site)
        expected = pair.delta()
    finally:
        torch.set_num_threads(before)
    assert (price.flops, price.parameters, price.bytes_moved) == (0, 0, expected.bytes_moved)
    assert expected.flops == expected.parameters == 0
    assert price.peak_bytes == expected.peak_bytes


def test_a_site_that_is_not_the_peak_changes_no_peak() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        big = self.small(self.big(x))
        return self.last(torch.cat([big, self.a(big)], 1))

    model = Written(forward, big=conv(16, 256), small=conv(256, 8), a=conv(8, 8), last=conv(16, 8))
    site = only(model)
    assert isinstance(site, Site)
    assert ConcatToSum().price(site) == Delta(bytes_moved=4 * 8 * 4 * 64 * 64 - 2 * 16 * 4 * 64 * 64)


def test_what_is_read_twice_is_split_twice() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        both = torch.relu(torch.cat([x, self.a(x)], 1))
        return self.b(both) * self.c(both)

    site = only(Written(forward, a=conv(16, 16), b=conv(32, 8), c=nn.ConvTranspose2d(32, 8, 1)))
    assert isinstance(site, Site)
    assert site.layers == {"b": "relu", "c": "relu"}
    assert list(site.carriers) == ["cat", "relu"]
    assert site.branches
    assert site.reason == "b splits into one product an operand, and so does c"


def test_a_later_concat_reads_the_operands_itself() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        first = torch.cat([x, self.a(x)], 1)
        second = torch.cat([first, self.b(first)], 1)
        return self.last(second)

    found = ConcatToSum().find(priced(Written(forward, a=conv(16, 8), b=conv(24, 8), last=conv(32, 4)), IMAGE))
    assert [(tuple(site.layers), site.concats) for site in found if isinstance(site, Site)] == [
        (("b",), ("cat_1",)),
        (("last",), ()),
    ]


def on_both(between: Callable[[Any, Tensor], Tensor], **members: nn.Module) -> nn.Module:
    """Two operands of 16 channels, joined, something, and a layer."""
    return Written(
        lambda self, x: self.last(between(self, torch.cat([x, self.a(x)], 1))),
        **{"a": conv(16, 16), "last": conv(32, 8), **members},
    )


CARRIED = {
    "batch norm": on_both(lambda self, x: self.norm(x), norm=nn.BatchNorm2d(32)),
    "group norm with borders that fit": on_both(lambda self, x: self.norm(x), norm=nn.GroupNorm(4, 32)),
    "depthwise convolution": on_both(lambda self, x: self.deep(x), deep=conv(32, 32, groups=32)),
    "two groups": on_both(lambda self, x: self.deep(x), deep=conv(32, 32, groups=2)),
    "pooling, dropout, padding": on_both(lambda self, x: nn.functional.pad(nn.functional.max_pool2d(x, 2), (1, 1))),
    "resampling": on_both(lambda self, x: nn.functional.interpolate(x, scale_factor=2, mode="bilinear")),
    "global pooling and a linear layer": on_both(
        lambda self, x: nn.functional.adaptive_avg_pool2d(x, 1).flatten(1), last=nn.Linear(32, 8)
    ),
    "another tensor": on_both(lambda self, x: x + self.side(x), side=conv(32, 32)),
    "flattening": on_both(
        lambda self, x: self.pool(x).flatten(1), pool=nn.AdaptiveAvgPool2d(2), last=nn.Linear(128, 8)
    ),
    "channels last": on_both(lambda self, x: x.permute(0, 2, 3, 1), last=nn.Linear(32, 8)),
    "mean over space": on_both(lambda self, x: x.mean((2, 3)), last=nn.Linear(32, 8)),
    "a gate": on_both(lambda self, x: x * torch.sigmoid(self.gate(x)), gate=conv(32, 32)),
}


@pytest.mark.parametrize("name", CARRIED)
def test_channel_wise_operators_are_passed(name: str) -> None:
    found = only(CARRIED[name])
    assert isinstance(found, Site), found.reason
    assert "last" in found.layers


def returned(self: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    both = torch.cat([x, self.a(x)], 1)
    return self.last(both), both


BLOCKED = {
    "the concat is also a model output": Written(returned, a=conv(16, 16), last=conv(32, 8)),
    "norm (layer_norm) normalises across the concatenated channels": on_both(
        lambda self, x: self.norm(x), norm=nn.LayerNorm([32, 64, 64])
    ),
    "a group of 32 channels of norm straddles the boundary at channel 16": on_both(
        lambda self, x: self.norm(x), norm=nn.GroupNorm(1, 32)
    ),
    "a group of 32 channels of deep straddles the boundary at channel 48": Written(
        lambda self, x: self.deep(torch.cat([x, self.a(x)], 1)), a=conv(48, 16), deep=conv(64, 64, groups=2)
    ),
    "softmax (softmax) reads the concatenated channels together": on_both(lambda self, x: x.softmax(1)),
    "chunk": on_both(lambda self, x: x.chunk(2, 1)[1], last=conv(16, 8)),
    "reshape": on_both(lambda self, x: x.reshape(1, 4, 8, 64, 64).transpose(1, 2).reshape(1, 32, 64, 64)),
}


@pytest.mark.parametrize("reason", BLOCKED)
def test_refusals_name_the_node(reason: str) -> None:
    model = BLOCKED[reason]
    tensor = torch.empty(1, 48, 64, 64) if "48" in reason else IMAGE
    found = only(model, tensor)
    assert isinstance(found, Refusal)
    assert found.status == "blocked"
    assert found.node in found.reason or found.node == "cat"
    if " " in reason:
        assert found.reason == reason
    else:
        assert found.reason.endswith(
            {"chunk": "takes a slice of the concatenated channels", "reshape": "rearranges the concatenated channels"}[
                reason
            ]
        )


def test_a_concat_along_space_is_no_case_for_it() -> None:
    model = Written(lambda self, x: self.last(torch.cat([x, self.a(x)], 2)), a=conv(16, 16), last=conv(16, 8))
    for found in ConcatToSum().find(priced(model, IMAGE)):
        assert isinstance(found, Refusal)
        assert (found.status, found.reason) == ("n/a", "cat joins its operands along the space axis")


def test_deltas_are_plain_numbers() -> None:
    site = only(joined(32, 32, plain))
    assert isinstance(site, Site)
    assert all(type(value) is int for value in asdict(ConcatToSum().price(site)).values())
