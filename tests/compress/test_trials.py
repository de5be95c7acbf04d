"""Budgets on what is held at once, and on time: prices that come from models that are built."""

from __future__ import annotations

import pytest
import torch

from skipgraph import ConcatToSum
from skipgraph.compress.limits import parse_budget
from skipgraph.compress.trials import _put
from skipgraph.errors import BudgetError
from skipgraph.rewriting import planned
from tests.compress.test_compress import IMAGE, data, model


@pytest.mark.parametrize("kind", ["transposed", "resampled"])
@pytest.mark.parametrize("share", [-0.1, -0.3])
def test_a_budget_of_peak_memory_is_met(kind: str, share: float) -> None:
    what = ConcatToSum(budget={"peak": share}, also=("linear",))
    result = planned(model(kind), IMAGE, what, calibrate=data())
    before, after = result.before.cost.peak_bytes, result.after.cost.peak_bytes
    assert after <= (1 + share) * before


def test_less_is_given_up_for_less() -> None:
    """The exact rewrite alone is enough for a small budget; a larger one costs an error, and the least that does."""
    exact = planned(model("transposed"), IMAGE, ConcatToSum(), execution="separate")
    saved = 1 - exact.after.cost.peak_bytes / exact.before.cost.peak_bytes
    assert saved > 0
    errors = []
    for share in (0.9 * saved, saved + 0.1, saved + 0.25):
        what = ConcatToSum(budget={"peak": -share}, also=("linear",))
        compressed = planned(model("transposed"), IMAGE, what, execution="separate", calibrate=data()).compressed
        assert compressed is not None
        errors.append(compressed.predicted)
    assert errors[0] == 0
    assert 0 < errors[1] < errors[2]


def test_budgets_are_met_together() -> None:
    budget = parse_budget("flops=-30%,peak=-20%")
    result = planned(model("transposed"), IMAGE, ConcatToSum(budget=budget, also=("linear",)), calibrate=data())
    before, after = result.before.cost, result.after.cost
    assert after.peak_bytes <= 0.8 * before.peak_bytes
    assert after.flops <= 0.7 * before.flops


def test_a_peak_that_cannot_be_had() -> None:
    with pytest.raises(BudgetError, match=r"peak=-99% cannot be met: the best that was found is peak=-\d+\.\d%"):
        planned(model("transposed"), IMAGE, ConcatToSum(budget={"peak": -0.99}, also=("linear",)))


def test_a_budget_of_time_is_met_where_it_runs() -> None:
    """A layer of 128 channels on a 32 by 32 image takes nearly all of the time; of lower rank it takes less."""

    class Wide(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = torch.nn.Conv2d(3, 64, 1)
            self.second = torch.nn.Conv2d(64, 64, 1)
            self.join = torch.nn.Conv2d(128, 128, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x)
            return self.join(torch.cat([x, self.second(x).relu()], 1))

    torch.manual_seed(0)
    image = torch.randn(1, 3, 32, 32)
    result = planned(Wide().eval(), image, ConcatToSum(budget={"latency": -0.2}), calibrate=[image])
    assert result.compressed is not None
    (layer,) = result.compressed.layers
    assert layer.path == "join"
    assert result.after.cost.flops < 0.8 * result.before.cost.flops


def test_what_is_held_goes_to_the_next_call_that_is_there() -> None:
    assert _put({"a": 1, "new": 7, "c": 3, "d": 2}, ["a", "b", "c", "d"]) == {"d": 2, "c": 7, "b": 7, "a": 1}
    assert _put({"a": 1, "end": 5}, ["a", "b"]) == {"b": 5, "a": 1}
