"""What two interleaved series of times say: medians, spread, and the ratio with its confidence interval."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, quantiles

_DRAWS = 2000
_CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Ratio:
    """B's time over A's: the median of the ratios of neighbouring blocks, with its 95 % confidence interval."""

    value: float
    low: float
    high: float

    @property
    def is_noise(self) -> bool:
        """Whether the interval holds 1: no difference that can be told from noise."""
        return self.low <= 1.0 <= self.high

    def __str__(self) -> str:
        if self.is_noise:
            return (
                f"no difference beyond noise (B takes {self.value:.3f} of A's time, {self.low:.3f} to {self.high:.3f})"
            )
        word = "faster" if self.value < 1 else "slower"
        return f"B takes {self.value:.3f} of A's time ({self.low:.3f} to {self.high:.3f}): {word}"


def ratio(a: Sequence[float], b: Sequence[float], *, seed: int = 0) -> Ratio:
    """The ratio of two series whose blocks were timed in pairs, one right after the other.

    A pair shares what else the machine was doing, so ratios are taken within pairs. The interval is the percentile
    bootstrap of their median (Efron 1979), with draws that depend on ``seed`` alone.
    """
    ratios = [second / first for first, second in zip(a, b, strict=True)]
    draw = random.Random(seed)
    medians = sorted(median(draw.choices(ratios, k=len(ratios))) for _ in range(_DRAWS))
    tail = (1 - _CONFIDENCE) / 2
    return Ratio(median(ratios), medians[int(tail * _DRAWS)], medians[int((1 - tail) * _DRAWS) - 1])


def spread(times: Sequence[float]) -> tuple[float, float]:
    """The quartiles of a series."""
    if len(times) < 2:
        return times[0], times[0]
    first, _, third = quantiles(times, n=4)
    return first, third
