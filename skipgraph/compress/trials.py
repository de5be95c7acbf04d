"""The limits of a budget, held against models that are really built.

Multiply-adds and parameters are prices of layers. What is held at each moment, and how long things take here, are not:
they are read off models in which each layer is factored alone, at a few ranks, and are taken to add up over layers, so
that they go into the same program. What was chosen is then built and measured as a whole; where a sum over layers was
wrong the limits are corrected, and the choice is made anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import fx

from skipgraph.capture import Captured
from skipgraph.compress.choose import Candidate, Choice, chosen
from skipgraph.errors import BudgetError
from skipgraph.graph import SkipGraph
from skipgraph.passes.live_ranges import LiveRanges
from skipgraph.passes.measure import site_seconds

_SUMMED = ("flops", "parameters")
_RANKS = {"peak": 2, "latency": 4}  # that a layer is built at; bytes are linear in the rank
_ROUNDS = 8  # of correcting the limits
_HALVINGS = 6  # of a budget that cannot be met, to find what can
_TOLERANCE = {"latency": 0.01}  # that nobody can tell apart
_HELD = "held by "


@dataclass(frozen=True, slots=True)
class Trial:
    """A model that is priced; ``graph`` is that of its operators."""

    model: Captured
    graph: SkipGraph


Build = Callable[[Sequence[Candidate]], Trial]
Tell = Callable[[str], None]


class Trials:
    """The limits of a budget as rows of the program, each kept to by what is built.

    Parameters
    ----------
    original : Trial
        The model as it is.
    build : callable
        Candidates -> the model in which their layers are factored and its concats are taken apart.
    budget : dict
        ``"flops"``, ``"parameters"``, ``"peak"``, ``"latency"`` -> by how much they may change, relatively.

    Attributes
    ----------
    builds : bool
        Whether prices take models that are built.
    reached : dict
        The same as ``budget`` for what was chosen, as measured.
    """

    def __init__(self, original: Trial, build: Build, budget: Mapping[str, float]) -> None:
        self._original = original
        self._build = build
        self._budget = dict(budget)
        self.builds = bool({"peak", "latency"} & set(budget))
        self._exact = build(()) if self.builds else original
        self._held = _held(self._exact.graph) if "peak" in budget else {}
        self._seconds = self._timed(self._exact) if "latency" in budget else (0.0, 0.0)
        self.reached: dict[str, float] = {}

    # -- prices --------------------------------------------------------------------------------------------------------

    def priced(self, found: Mapping[str, Sequence[Candidate]], tell: Tell) -> dict[str, list[Candidate]]:
        """The candidates, each with how much more the model then holds at each call, and how much longer it takes."""
        if not self.builds:
            return {path: list(candidates) for path, candidates in found.items()}
        result: dict[str, list[Candidate]] = {}
        for number, (path, candidates) in enumerate(found.items()):
            tell(f"building {path} ({number + 1} of {len(found)})")
            for form in dict.fromkeys(one.form for one in candidates):
                alike = sorted((one for one in candidates if one.form == form), key=lambda one: one.rank)
                result.setdefault(path, []).extend(self._interpolated(alike))
        return result

    def _interpolated(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Prices of candidates of one layer and form, by rank, between those that are built."""
        count = max(_RANKS.get(name, 0) for name in self._budget)
        places = sorted({round(place) for place in np.linspace(0, len(candidates) - 1, count)})
        ranks = [candidates[place].rank for place in places]
        built = [self._more(self._build((candidates[place],))) for place in places]

        def more(rank: int) -> dict[str, float]:
            return {name: float(np.interp(rank, ranks, [each[name] for each in built])) for name in built[0]}

        return [replace(one, more={**one.more, **more(one.rank)}) for one in candidates]

    def _more(self, trial: Trial) -> dict[str, float]:
        """How much more a model holds and takes than the one in which no layer is factored."""
        more: dict[str, float] = {}
        if "peak" in self._budget:
            held = _held(trial.graph, self._held)
            more |= {_HELD + call: held[call] - nbytes for call, nbytes in self._held.items()}
        if "latency" in self._budget:
            before, after = _unlike(self._exact.model, trial.model)
            seconds = site_seconds(self._exact.model, before, after, trial.model)
            if seconds is None:
                whole = self._timed(trial)
                seconds = self._seconds[1], whole[1] * self._seconds[0] / whole[0]
            more["latency"] = seconds[1] - seconds[0]
        return more

    # -- limits --------------------------------------------------------------------------------------------------------

    def total(self, measure: str) -> float:
        """What a share of multiply-adds or parameters is one of."""
        return float(getattr(self._original.graph.cost, measure))

    def choice(self, candidates: Sequence[Candidate], tell: Tell) -> Choice:
        """The choice of least error that is within the budget when it is built and measured.

        Raises
        ------
        BudgetError
            If there is none, or none is found.
        """
        wrong: Counter[str] = Counter()
        best: dict[str, float] | None = None
        for attempt in range(_ROUNDS):
            choice = chosen(candidates, self._limits(1.0, wrong))
            if choice is None:
                break
            tell(f"building the choice ({attempt + 1}, at most {_ROUNDS})")
            trial = self._build(choice.chosen)
            shares, more = self._measured(trial)
            if self._over(shares) <= 0:
                self.reached = shares
                return choice
            best = shares if best is None or self._over(shares) < self._over(best) else best
            for name, value in more.items():
                wrong[name] = max(wrong[name], value - sum(one.more[name] for one in choice.chosen))  # type: ignore[assignment]
        best = best or self._nearest(candidates)
        asked = ",".join(f"{name}={share:+.0%}" for name, share in self._budget.items())
        found = ",".join(f"{name}={share:+.1%}" for name, share in best.items())
        raise BudgetError(f"the budget {asked} cannot be met: the best that was found is {found}", "Allow more.")

    def _limits(self, part: float, wrong: Mapping[str, float]) -> dict[str, float]:
        """By how much each row may grow where a part of the budget is asked for."""
        limits = {name: part * self._budget[name] * self.total(name) for name in _SUMMED if name in self._budget}
        if "peak" in self._budget:
            most = (1 + part * self._budget["peak"]) * self._original.graph.cost.peak_bytes
            limits |= {_HELD + call: most - held for call, held in self._held.items()}
        if "latency" in self._budget:
            limits["latency"] = (1 + part * self._budget["latency"]) * self._seconds[0] - self._seconds[1]
        return {name: limit - wrong.get(name, 0.0) for name, limit in limits.items()}

    def _measured(self, trial: Trial) -> tuple[dict[str, float], dict[str, float]]:
        """By how much the measures have changed, relatively; and each row, as `_more` has it."""
        summed = [name for name in _SUMMED if name in self._budget]
        more = {name: getattr(trial.graph.cost, name) - self.total(name) for name in summed}
        shares = {name: more[name] / max(self.total(name), 1.0) for name in summed}
        if "peak" in self._budget:
            shares["peak"] = trial.graph.cost.peak_bytes / self._original.graph.cost.peak_bytes - 1
            held = _held(trial.graph, self._held)
            more |= {_HELD + call: held[call] - nbytes for call, nbytes in self._held.items()}
        if "latency" in self._budget:
            before, after = self._timed(trial)
            shares["latency"] = after / before - 1
            more["latency"] = after * self._seconds[0] / before - self._seconds[1]
        return shares, more

    def _over(self, shares: Mapping[str, float]) -> float:
        """By how much the worst measure is above its budget."""
        return max(shares[name] - limit - _TOLERANCE.get(name, 1e-12) for name, limit in self._budget.items())

    def _nearest(self, candidates: Sequence[Candidate]) -> dict[str, float]:
        """What can be had of a budget that cannot be met."""
        low, high, nearest = 0.0, 1.0, Choice((), 0.0, 0.0)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            choice = chosen(candidates, self._limits(middle, {}))
            low, high = (low, middle) if choice is None else (middle, high)
            nearest = choice or nearest
        return self._measured(self._build(nearest.chosen))[0]

    def _timed(self, trial: Trial) -> tuple[float, float]:
        """Seconds of the original and of another model as a whole, in turns."""
        models = self._original.model, trial.model
        seconds = site_seconds(models[0], _calls(models[0]), _calls(models[1]), models[1])
        if seconds is None:
            raise BudgetError("the calls of the model cannot be timed one by one", "Give a budget of flops instead.")
        return seconds


def _held(graph: SkipGraph, at: Mapping[str, int] | None = None) -> dict[str, int]:
    """Bytes held at each call, in order; or at the calls ``at``, each with all that runs in front of it since the last.

    Calls of ``at`` that are gone hold what the next one does that is there.
    """
    ranges = LiveRanges(graph)
    off = graph.cost.peak_bytes - ranges.peak_bytes  # what was recorded, and what the graph alone tells
    found: dict[str, int] = {}
    for node, tick in ranges.tick_of.items():
        call = ranges.nodes[node]["site"]
        found[call] = max(found.get(call, 0), ranges.most_held(tick, tick) + off)
    if at is None:
        return found
    return _put(found, list(at))


def _put(found: Mapping[str, int], calls: Sequence[str]) -> dict[str, int]:
    """Each number to the next of ``calls``, the largest where there are several."""
    known = set(calls)
    merged: dict[str, int] = {}
    most = 0
    for call, nbytes in found.items():
        most = max(most, nbytes)
        if call in known:
            merged[call], most = most, 0
    result: dict[str, int] = {}
    after = most
    for call in reversed(calls):
        after = max(merged.get(call, after), most if not result else 0)
        result[call] = after
    return result


def _calls(model: Captured) -> list[fx.Node]:
    return [node for node in model.graphs[False].nodes if node.op not in ("placeholder", "output")]


def _unlike(first: Captured, second: Captured) -> tuple[list[fx.Node], list[fx.Node]]:
    """The calls of each model in evaluation that the other does not have: of other names, sizes or arguments."""
    before, after = ({_signature(node): node for node in _calls(model)} for model in (first, second))
    return [node for key, node in before.items() if key not in after], [
        node for key, node in after.items() if key not in before
    ]


def _signature(node: fx.Node) -> tuple[object, ...]:
    return (
        node.name, node.target, node.meta.get("shape"), *(one.meta.get("shape") for one in node.all_input_nodes)
    )  # fmt: skip
