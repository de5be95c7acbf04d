"""The choice of ranks against every choice there is."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skipgraph.compress.choose import Candidate, chosen, least
from skipgraph.compress.limits import parse_budget, parse_rank
from skipgraph.errors import UsageError

LAYER = st.lists(st.tuples(st.floats(0.001, 1), st.integers(-50, 5), st.integers(-50, 5)), min_size=1, max_size=4)


@settings(deadline=None, max_examples=60)
@given(st.lists(LAYER, min_size=1, max_size=4), st.integers(-120, 0), st.integers(-120, 10))
def test_no_other_choice_does_less_harm(
    layers: list[list[tuple[float, int, int]]], flops: int, parameters: int
) -> None:
    candidates = [
        Candidate(str(number), "project", rank, harm**0.5, harm, {"flops": a, "parameters": b})
        for number, layer in enumerate(layers)
        for rank, (harm, a, b) in enumerate(layer, 1)
    ]
    limits = {"flops": flops, "parameters": parameters}
    options = [[None, *[one for one in candidates if one.path == str(number)]] for number in range(len(layers))]
    fitting = [
        sum(one.harm for one in taken if one is not None)
        for taken in product(*options)
        if all(sum(one.more[name] for one in taken if one is not None) <= limit for name, limit in limits.items())
    ]
    found = chosen(candidates, limits)
    assert (found is None) == (not fitting)
    if found is not None:
        assert found.harm == pytest.approx(min(fitting), rel=1e-3, abs=1e-6)
        assert len({one.path for one in found.chosen}) == len(found.chosen)
        for name, limit in limits.items():
            assert sum(one.more[name] for one in found.chosen) <= limit + 1e-6
    assert least(candidates, "flops") == sum(
        min(0 if one is None else one.more["flops"] for one in layer) for layer in options
    )


def test_ranks_and_budgets_are_read_as_they_are_written() -> None:
    assert parse_rank("0.5") == 0.5
    assert isinstance(parse_rank("1.0"), float)
    assert parse_rank("64") == 64
    assert isinstance(parse_rank("64"), int)
    assert parse_budget("flops=-30%, parameters=-12.5%") == {"flops": -0.3, "parameters": -0.125}
    assert parse_budget("peak=−40%,latency=-20%") == {"peak": -0.4, "latency": -0.2}


@pytest.mark.parametrize(
    "text", ["flops", "flops=30%", "flops=-30", "-30%", "", "flops=-x%", "flops=+5%", "flops=-1%,flops=-2%"]
)
def test_budgets_that_cannot_be_read(text: str) -> None:
    with pytest.raises(UsageError, match="budget"):
        parse_budget(text)
    with pytest.raises(UsageError, match="is no rank"):
        parse_rank("half")
