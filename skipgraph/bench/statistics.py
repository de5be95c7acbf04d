"""From times of two models that took turns to a ratio with an interval, and to a verdict."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["B is faster", "B is slower", "no difference beyond noise"]

CONFIDENCE = 0.95
METHOD = "Hodges-Lehmann, interval by the signed-rank test"
# Copies of one model differ systematically by where their tensors lie in memory, which no number of runs averages out.
FLOOR = 0.02


@dataclass(frozen=True, slots=True)
class Ratio:
    """Times of B over those of A.

    Attributes
    ----------
    value : float
        Below one if B is faster.
    low, high : float
        Of the interval that holds the ratio with a confidence of 95 % or a little more.
    """

    value: float
    low: float
    high: float

    @property
    def verdict(self) -> Verdict:
        """What may be said: a difference needs an interval without 1, and a ratio more than 2 % away from it."""
        if self.low <= 1 <= self.high or abs(self.value - 1) <= FLOOR:
            return "no difference beyond noise"
        return "B is faster" if self.value < 1 else "B is slower"

    @property
    def summary(self) -> str:
        """The verdict in one sentence."""
        low, high = rounded(self.low), rounded(self.high)
        said = f"B takes {rounded(self.value)} of A's time ({low}–{high})."
        return said if self.verdict != "no difference beyond noise" else f"No difference beyond noise: {said}"


def ratio_of(pairs: Sequence[tuple[float, float]]) -> Ratio:
    """The ratio b / a of pairs of times (a, b) that were taken side by side.

    The estimate is the median of the means of all pairs of logarithms log(b / a) (Hodges and Lehmann); the interval
    holds the shifts that Wilcoxon's signed-rank test does not reject. Nothing is drawn at random. The test asks that
    the logarithms lie symmetrically, which they do where noise meets A and B alike.

    Parameters
    ----------
    pairs : sequence of tuple
        At least six, in any unit of time: fewer cannot give a confidence of 95 %.

    Raises
    ------
    ValueError
        If there are fewer.

    References
    ----------
    M. Hollander, D. A. Wolfe: Nonparametric Statistical Methods, chapter 3.

    Examples
    --------
    >>> ratio = ratio_of([(1.0, 2.0), (1.1, 2.2), (1.0, 2.1), (1.2, 2.4), (1.0, 1.9), (1.1, 2.2)])
    >>> ratio.verdict, ratio.summary
    ('B is slower', "B takes 2.00 of A's time (1.90–2.10).")
    """
    logarithms = [math.log(b / a) for a, b in pairs]
    means = sorted((x + y) / 2 for place, x in enumerate(logarithms) for y in logarithms[place:])
    outside = _outside(len(logarithms))
    estimate, low, high = statistics.median(means), means[outside], means[-1 - outside]
    return Ratio(math.exp(estimate), math.exp(low), math.exp(high))


def _outside(number: int) -> int:
    """How many of the sorted means lie outside the interval at either end, for ``number`` pairs."""
    ways = [1]  # in which the ranks of the positive differences sum to 0, 1, …, if both signs are as likely
    for rank in range(1, number + 1):
        longer = ways + [0] * rank
        for total, count in enumerate(ways):
            longer[total + rank] += count
        ways = longer
    allowed = (1 - CONFIDENCE) / 2 * 2**number
    if ways[0] > allowed:
        raise ValueError(f"{number} pairs are too few for a confidence of {CONFIDENCE:.0%}")
    total, seen = 0, 0
    while seen + ways[total] <= allowed:
        seen += ways[total]
        total += 1
    return total - 1


def quartiles(times: Sequence[float]) -> tuple[float, float, float]:
    """The first quartile, the median and the third quartile.

    Examples
    --------
    >>> quartiles([1.0, 2.0, 3.0, 4.0, 5.0])
    (2.0, 3.0, 4.0)
    """
    first, middle, third = statistics.quantiles(times, n=4, method="inclusive")
    return first, middle, third


def rounded(ratio: float) -> str:
    """Two decimals, or two digits if it is small."""
    return f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.2g}"
