"""Which rank each layer gets: one mixed-integer linear program over all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array, vstack

from skipgraph.compress.factor import Form


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to factor a layer.

    Attributes
    ----------
    path : str
        Of the layer.
    form, rank : str, int
    error : float
        Relative error of the layer's output, as predicted.
    harm : float
        Relative squared error of the model's output by this layer alone, as predicted.
    more : dict
        By how much each measure grows; negative is less. Multiply-adds, parameters; bytes and seconds if
        `skipgraph.compress.trials` has added them.
    """

    path: str
    form: Form
    rank: int
    error: float
    harm: float
    more: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen.

    Attributes
    ----------
    chosen : tuple of Candidate
        One for each layer that is factored.
    harm : float
        The sum over the layers: the objective.
    gap : float
        By how much, relatively, a better choice might still be better.
    """

    chosen: tuple[Candidate, ...]
    harm: float
    gap: float


def chosen(candidates: Sequence[Candidate], limits: Mapping[str, float], *, seconds: float = 60.0) -> Choice | None:
    """The choice of least harm under the limits; None if there is none.

    Each layer is left as it is or gets one of its candidates. Minimises the sum of ``harm`` subject to
    ``Σ more[measure] <= limits[measure]`` for each measure, by HiGHS (scipy.optimize.milp).

    Parameters
    ----------
    candidates : sequence of Candidate
    limits : dict
        Measure -> by how much it may grow in all; negative for a reduction.
    seconds : float
        After which the best that was found is taken.
    """
    if not candidates:
        return None if any(limit < 0 for limit in limits.values()) else Choice((), 0.0, 0.0)
    paths = list(dict.fromkeys(one.path for one in candidates))
    row = {path: number for number, path in enumerate(paths)}
    count = len(candidates)
    columns = np.arange(count)
    one_each = csr_array((np.ones(count), ([row[one.path] for one in candidates], columns)), (len(paths), count))
    rows, upper = [one_each], [np.ones(len(paths))]
    for measure, limit in limits.items():
        scale = max(abs(limit), 1.0)
        rows.append(csr_array([[one.more[measure] / scale for one in candidates]]))
        upper.append(np.array([limit / scale]))
    harms = np.array([one.harm for one in candidates])
    scale = max(float(harms.max()), np.finfo(float).tiny)
    found = milp(
        harms / scale,
        integrality=np.ones(count),
        bounds=Bounds(0, 1),
        constraints=LinearConstraint(vstack(rows), ub=np.concatenate(upper)),
        options={"time_limit": seconds, "mip_rel_gap": 1e-4},
    )
    if found.x is None:
        return None
    taken = tuple(one for one, value in zip(candidates, found.x, strict=True) if value > 0.5)
    return Choice(taken, sum(one.harm for one in taken), float(found.mip_gap or 0.0))


def least(candidates: Sequence[Candidate], measure: str) -> float:
    """The least that a measure can grow by: what the largest reduction is."""
    best: dict[str, float] = {}
    for one in candidates:
        best[one.path] = min(best.get(one.path, 0.0), one.more[measure])
    return sum(best.values())
