"""Every skip is told what its rewrite would change."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from skipgraph.passes import what_if
from tests.helpers.pricing import priced
from tests.helpers.rewritten import conv
from tests.helpers.tracing import Written


def model() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        x = x + self.b(torch.relu(self.a(x)))
        x = torch.cat([x, torch.relu(self.c(x)), torch.tanh(self.d(torch.relu(self.c2(x))))], 1)
        x = self.e(x)
        return self.norm(torch.cat([x, torch.relu(self.f(x))], 1))

    members = {name: conv(8, 8) for name in ("a", "b", "c", "c2", "d", "f")}
    return Written(forward, e=conv(24, 8), norm=nn.LayerNorm([16, 6, 6]), **members)


def test_all_skips_have_their_rewrite() -> None:
    graph = priced(model(), torch.empty(1, 8, 6, 6))
    assert not any(skip.rewrites for skip in graph.skips)
    what_if(graph)
    outcomes = {skip.merge: skip.rewrites for skip in graph.skips}
    assert set(outcomes) == {"add", "cat", "cat_1"}
    assert outcomes["add"]["sum_to_concat"]["status"] == "exact"
    assert outcomes["add"]["sum_to_concat"]["reason"] == "b and the identity become one layer on a concat"
    assert outcomes["add"]["sum_to_concat"]["delta"]["flops"] == 8 * 8 * 9 * 36
    assert outcomes["cat"]["concat_to_sum"]["status"] == "exact"
    assert outcomes["cat"]["concat_to_sum"]["delta"]["bytes_moved"] == 4 * 36 * (4 * 2 * 8 - 2 * 24)
    assert outcomes["cat_1"]["concat_to_sum"] == {
        "status": "blocked",
        "reason": "norm (layer_norm) normalises across the concatenated channels",
        "delta": {},
    }
    assert all(len(rewrites) == 1 for rewrites in outcomes.values())


def test_skips_of_one_merge_are_told_the_same() -> None:
    graph = priced(model(), torch.empty(1, 8, 6, 6))
    what_if(graph)
    for merge in graph.merges:
        assert all(skip.rewrites == merge.skips[0].rewrites for skip in merge.skips)
