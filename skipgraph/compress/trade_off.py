"""Error against multiply-adds, before anything is done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from skipgraph.compress.candidates import Bench
from skipgraph.compress.choose import chosen
from skipgraph.compress.data import Batch
from skipgraph.compress.picking import all_candidates
from skipgraph.compress.sites import Layer

POINTS = 12


@dataclass(frozen=True, slots=True)
class Point:
    """One choice of ranks.

    Attributes
    ----------
    flops, parameters : int
        Of the whole model.
    error : float
        Relative error of the outputs, as predicted.
    layers : int
        How many are factored.
    ranks : dict
        Path of a layer -> its rank.
    """

    flops: int
    parameters: int
    error: float
    layers: int
    ranks: Mapping[str, int]

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def trade_off(
    bench: Bench,
    layers: Sequence[Layer],
    data: Iterable[Batch],
    totals: Mapping[str, float],
    tell: Callable[[str], None],
) -> list[Point]:
    """The choices of least error from all multiply-adds down to the fewest that can be.

    Parameters
    ----------
    bench, layers : Bench, sequence of Layer
    data : iterable
        What the effect of each layer on the output is measured with.
    totals : dict
        ``"flops"`` and ``"parameters"`` of the model as it is.
    tell : callable
    """
    found = all_candidates(bench, layers, data, tell, check=lambda everything: None)
    everything = [one for candidates in found.values() for one in candidates]
    fewest = sum(min(0.0, *(one.more["flops"] for one in candidates)) for candidates in found.values())
    points = [Point(int(totals["flops"]), int(totals["parameters"]), 0.0, 0, {})]
    for step in range(1, POINTS + 1):
        choice = chosen(everything, {"flops": fewest * step / POINTS + 0.5})
        if choice is None:
            continue
        more = {name: sum(one.more[name] for one in choice.chosen) for name in totals}
        point = Point(
            int(totals["flops"] + more["flops"]), int(totals["parameters"] + more["parameters"]),
            choice.harm**0.5, len(choice.chosen), {one.path: one.rank for one in choice.chosen},
        )  # fmt: skip
        if point.flops < points[-1].flops:
            points.append(point)
    return points
