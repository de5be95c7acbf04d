"""Law 7: factors against their moments, against closed forms, and against what they are the minimum of."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from skipgraph.compress.factor import Factors, Form, Moments, factored, full_rank

if TYPE_CHECKING:
    from skipgraph.compress.factor import Array

SHAPES = st.tuples(st.integers(1, 6), st.integers(1, 6), st.sampled_from([1, 3, 4]))


def drawn(shape: tuple[int, int, int], seed: int) -> tuple[Array, Moments]:
    """A weight, and moments of correlated numbers that it reads."""
    out, channels, taps = shape
    generator = np.random.default_rng(seed)
    weight = generator.normal(size=shape)
    mix = generator.normal(size=(channels * taps, channels * taps))
    patches = mix @ mix.T
    by_tap = patches.reshape(channels, taps, channels, taps)
    flat = weight.reshape(out, -1)
    return weight, Moments(np.einsum("itjt->ij", by_tap) / taps, patches, flat @ patches @ flat.T)


def error(weight: Array, factors: Factors, moments: Moments | None) -> float:
    """The relative error that factors make, from its definition."""
    whole = weight.reshape(len(weight), -1)
    rest = whole - factors.product().reshape(len(weight), -1)
    covariance = np.eye(whole.shape[1]) if moments is None else moments.patches
    assert covariance is not None
    return float(np.sqrt(np.trace(rest @ covariance @ rest.T) / np.trace(whole @ covariance @ whole.T)))


@settings(deadline=None, max_examples=60)
@given(SHAPES, st.sampled_from(["project", "restore"]), st.booleans(), st.integers(0, 99), st.data())
def test_the_error_that_is_told_is_the_error_that_is_made(
    shape: tuple[int, int, int], form: Form, with_data: bool, seed: int, data: st.DataObject
) -> None:
    weight, known = drawn(shape, seed)
    moments = known if with_data else None
    rank = data.draw(st.integers(1, full_rank(weight, form)))
    factors = factored(weight, rank, form, moments)
    assert factors.first.shape == (rank, shape[1], 1 if form == "project" else shape[2])
    assert factors.second.shape == (shape[0], rank, shape[2] if form == "project" else 1)
    assert factors.error == pytest.approx(error(weight, factors, moments), abs=1e-6)


@settings(deadline=None, max_examples=40)
@given(SHAPES, st.sampled_from(["project", "restore"]), st.booleans(), st.integers(0, 99))
def test_full_rank_is_exact(shape: tuple[int, int, int], form: Form, with_data: bool, seed: int) -> None:
    weight, moments = drawn(shape, seed)
    factors = factored(weight, full_rank(weight, form), form, moments if with_data else None)
    np.testing.assert_allclose(factors.product(), weight, atol=1e-6 * np.abs(weight).max())


@settings(deadline=None, max_examples=25)
@given(SHAPES, st.sampled_from(["project", "restore"]), st.booleans(), st.integers(0, 99))
def test_more_rank_is_never_worse(shape: tuple[int, int, int], form: Form, with_data: bool, seed: int) -> None:
    weight, known = drawn(shape, seed)
    moments = known if with_data else None
    ranks = range(1, full_rank(weight, form) + 1)
    errors = [factored(weight, rank, form, moments).error for rank in ranks]
    assert all(later <= earlier + 1e-9 for earlier, later in pairwise(errors)) or form == "project"


@pytest.mark.parametrize("form", ["project", "restore"])
@pytest.mark.parametrize(("taps", "rank"), [(1, 2), (3, 1), (3, 2)])
def test_no_descent_from_elsewhere_finds_better_where_the_form_is_closed(form: Form, taps: int, rank: int) -> None:
    weight, moments = drawn((4, 3, taps), 5)
    found = factored(weight, rank, form, moments)
    sizes = found.first.size, found.second.size

    def off(numbers: Array) -> float:
        first = numbers[: sizes[0]].reshape(found.first.shape)
        second = numbers[sizes[0] :].reshape(found.second.shape)
        return error(weight, Factors(form, first, second, 0.0), moments)

    generator = np.random.default_rng(0)
    best = min(minimize(off, generator.normal(size=sum(sizes)), method="BFGS").fun for _ in range(6))
    slack = 1e-6 if form == "restore" or taps == 1 else 0.03  # project with a kernel is a local optimum
    assert found.error <= best + slack


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 6), st.integers(2, 6), st.integers(0, 99))
def test_each_descent_is_no_worse(out: int, channels: int, seed: int) -> None:
    weight, moments = drawn((out, channels, 3), seed)
    for rank in range(1, full_rank(weight, "project") + 1):
        errors = [factored(weight, rank, "project", moments, descents=count).error for count in range(4)]
        assert all(later <= earlier + 1e-9 for earlier, later in pairwise(errors))


@pytest.mark.parametrize("rank", [0, 4, -1])
def test_ranks_that_there_are_not(rank: int) -> None:
    with pytest.raises(ValueError, match="is not between 1 and 3"):
        factored(np.ones((3, 4, 1)), rank, "restore")
