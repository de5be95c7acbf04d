"""The ratio of two series, its interval, and what may be said of it."""

from __future__ import annotations

import random

import pytest

from skipgraph.bench.statistics import Ratio, _outside, quartiles, ratio_of


def pairs(ratio: float, number: int, *, seed: int, noise: float = 0.05) -> list[tuple[float, float]]:
    """Times whose load drifts, meets both, and now and then one of them."""
    draw = random.Random(seed)
    found = []
    for place in range(number):
        load = 1 + place / number
        a, b = (load * draw.lognormvariate(0, noise) * (3 if draw.random() < 0.05 else 1) for _ in range(2))
        found.append((a, ratio * b))
    return found


@pytest.mark.parametrize("number", [6, 20, 64])
@pytest.mark.parametrize("true", [0.8, 1.0])
def test_the_interval_covers(true: float, number: int) -> None:
    intervals = [ratio_of(pairs(true, number, seed=seed)) for seed in range(200)]
    covered = sum(ratio.low <= true <= ratio.high for ratio in intervals)
    assert covered / len(intervals) >= 0.92  # 95 % with a standard error of 1.5 %


def test_more_rounds_make_it_narrower() -> None:
    few, many = (ratio_of(pairs(0.8, number, seed=1)) for number in (8, 64))
    assert many.high / many.low < few.high / few.low


def test_the_same_data_give_the_same() -> None:
    assert ratio_of(pairs(0.9, 16, seed=3)) == ratio_of(pairs(0.9, 16, seed=3))


def test_swapping_the_models_inverts_the_ratio() -> None:
    times = pairs(0.7, 20, seed=5)
    forth, back = ratio_of(times), ratio_of([(b, a) for a, b in times])
    assert back.value == pytest.approx(1 / forth.value)
    assert (back.low, back.high) == pytest.approx((1 / forth.high, 1 / forth.low))


def test_outliers_do_not_move_it() -> None:
    times = [(1.0, 0.5)] * 18 + [(1.0, 50.0), (80.0, 0.5)]
    assert ratio_of(times).value == pytest.approx(0.5)


def test_directions() -> None:
    assert ratio_of(pairs(2.0, 20, seed=0)).verdict == "B is slower"
    assert ratio_of(pairs(0.5, 20, seed=0)).verdict == "B is faster"
    assert ratio_of(pairs(1.0, 20, seed=0)).verdict == "no difference beyond noise"


def test_a_difference_as_small_as_one_of_place_is_none() -> None:
    assert Ratio(0.985, 0.98, 0.99).verdict == "no difference beyond noise"
    assert Ratio(0.97, 0.96, 0.98).verdict == "B is faster"


def test_sentences() -> None:
    assert Ratio(0.932, 0.91, 0.951).summary == "B takes 0.93 of A's time (0.91–0.95)."
    assert Ratio(1.01, 0.97, 1.04).summary == "No difference beyond noise: B takes 1.01 of A's time (0.97–1.04)."
    assert Ratio(0.0123, 0.01, 0.014).summary == "B takes 0.012 of A's time (0.01–0.014)."


@pytest.mark.parametrize(("number", "critical"), [(6, 0), (7, 2), (8, 3), (10, 8), (20, 52)])
def test_critical_values_are_those_of_the_tables(number: int, critical: int) -> None:
    # Two-sided, 5 %: the largest sum of ranks that is rejected.
    assert _outside(number) == critical


def test_too_few_rounds() -> None:
    with pytest.raises(ValueError, match="5 pairs are too few"):
        ratio_of([(1.0, 1.0)] * 5)


def test_quartiles_of_two() -> None:
    assert quartiles([1.0, 2.0]) == (1.25, 1.5, 1.75)
