"""What is held for a skip, by hand."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from skipgraph.graph import Skip
from tests.helpers.pricing import priced
from tests.helpers.tracing import Written

IMAGE = torch.empty(2, 8, 6, 6)
SIZE = 4 * 2 * 8 * 36


def conv(inner: int = 8, outer: int = 8, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inner, outer, 3, padding=1, **options)


def skips(forward: Any, **members: nn.Module) -> list[Skip]:
    return priced(Written(forward, **members), IMAGE).skips


def test_a_residual_holds_its_source_after_the_branch_has_read_it() -> None:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)  # step 1
        return x + self.b(torch.relu(self.a(x)))  # read at 2, relu 3, b 4, the sum is step 5

    (skip,) = skips(forward, stem=conv(), a=conv(), b=conv())
    assert (skip.bytes, skip.held_steps, skip.byte_steps) == (SIZE, 3, 3 * SIZE)


def test_a_tensor_of_its_own_is_held_from_its_production() -> None:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)  # 1
        shortcut = self.short(x)  # 2
        return shortcut + self.b(torch.relu(self.a(x)))  # a 3, relu 4, b 5, sum 6

    (skip,) = skips(forward, stem=conv(), short=nn.Conv2d(8, 8, 1), a=conv(), b=conv())
    assert skip.shortcut == "projected"
    assert (skip.bytes, skip.held_steps, skip.byte_steps) == (SIZE, 4, 4 * SIZE)


def test_a_shortcut_that_runs_last_holds_source_then_result() -> None:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)  # 1
        y = self.b(torch.relu(self.a(x)))  # a 2, relu 3, b 4
        return self.short(x) + y  # short 5, sum 6: the source from 2 to 5, the result from 5 to 6

    (skip,) = skips(forward, stem=conv(), short=nn.Conv2d(8, 8, 1), a=conv(), b=conv())
    assert (skip.held_steps, skip.byte_steps) == (4, 4 * SIZE)


def test_skips_of_one_source_share_its_time() -> None:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)  # 1
        y = torch.relu(self.a(x))  # 2, 3
        y = torch.cat([x, y], 1)  # 4
        y = torch.relu(self.b(y))  # 5, 6
        return torch.cat([x, y], 1)  # 7

    first, *others = skips(forward, stem=conv(), a=conv(), b=conv(16, 8))
    assert (first.source, first.held_steps) == ("stem", 2)
    last = others[-1]
    assert (last.source, last.held_steps) == ("stem", 3)
    assert first.held_steps + last.held_steps == 5  # from the last read by a to the last concat


def test_held_at_peak() -> None:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return x + self.b(torch.relu(self.a(x)))

    (skip,) = skips(forward, stem=conv(), a=conv(8, 64), b=conv(64, 8))
    assert skip.held_at_peak
    (late,) = skips(
        lambda self, x: (lambda y: y + self.b(torch.relu(self.a(y))))(self.stem(self.small(self.big(x)))),
        big=conv(8, 128), small=conv(128, 8), stem=conv(), a=conv(), b=conv(),
    )  # fmt: skip
    assert not late.held_at_peak
    assert late.bytes == skip.bytes
