"""Which candidate each layer gets, by what the user asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from skipgraph.compress.asked import Asked
from skipgraph.compress.candidates import Bench, at_rank, candidate, candidates_of, weighed, within
from skipgraph.compress.choose import Candidate, least
from skipgraph.compress.data import Batch
from skipgraph.compress.sites import Layer
from skipgraph.compress.trials import Trials
from skipgraph.errors import BudgetError, UsageError

Tell = Callable[[str], None]
Picked = tuple[list[Candidate], dict[str, str], float]


def picked(
    bench: Bench, layers: Sequence[Layer], asked: Asked, data: Iterable[Batch], tell: Tell, trials: Trials | None = None
) -> Picked:
    """The candidate of each layer that is to be factored; why others are not; the gap of the choice.

    Raises
    ------
    BudgetError
        If the budget cannot be met.
    UsageError
        If no layer can be factored as asked.
    """
    if asked.budget is not None and trials is not None:
        return _by_budget(bench, layers, asked.budget, data, tell, trials)
    left: dict[str, str] = {}
    found = [one for layer in layers if (one := _alone(bench, layer, asked, left)) is not None]
    exact = isinstance(asked.rank, float) and asked.rank == 1
    if not found and not exact and asked.exactly is None:
        raise UsageError(
            f"no layer is factored: {'; '.join(dict.fromkeys(left.values())) or 'there is none that could be'}",
            "Ask for a lower rank, a larger error, or leave them out for the exact rewrite.",
        )
    by_path = weighed(bench, {one.path: [one] for one in found}, data, tell)
    return [one for candidates in by_path.values() for one in candidates], left, 0.0


def _alone(bench: Bench, layer: Layer, asked: Asked, left: dict[str, str]) -> Candidate | None:
    """The candidate of a layer where it does not depend on the others."""
    if asked.exactly is not None:
        return candidate(bench, layer, *asked.exactly[layer.path]) if layer.path in asked.exactly else None
    if asked.rank is not None:
        return at_rank(bench, layer, asked.rank, left)
    assert asked.max_error is not None
    return within(bench, layer, asked.max_error, left)


def all_candidates(
    bench: Bench,
    layers: Sequence[Layer],
    data: Iterable[Batch],
    tell: Tell,
    *,
    check: Callable[[Sequence[Candidate]], None],
    all_forms: bool = False,
) -> dict[str, list[Candidate]]:
    """All candidates of all layers, weighed; ``check`` sees them before that, which takes longest."""
    found = {layer.path: candidates_of(bench, layer, all_forms=all_forms) for layer in layers}
    found = {path: candidates for path, candidates in found.items() if candidates}
    check([one for candidates in found.values() for one in candidates])
    return weighed(bench, found, data, tell)


def _by_budget(
    bench: Bench,
    layers: Sequence[Layer],
    budget: Mapping[str, float],
    data: Iterable[Batch],
    tell: Tell,
    trials: Trials,
) -> Picked:
    def check(everything: Sequence[Candidate]) -> None:
        for name in ("flops", "parameters"):
            best = least(everything, name) / max(trials.total(name), 1.0)
            if best > budget.get(name, best):
                alone = all(layer.merge is not None for layer in layers)
                raise BudgetError(
                    f"the budget {name}={budget[name]:+.0%} cannot be met: the best that can be is {best:+.1%}",
                    f"Allow more{', or give --also linear' if alone else ''}.",
                )

    found = all_candidates(bench, layers, data, tell, check=check, all_forms=trials.builds)
    everything = [one for candidates in trials.priced(found, tell).values() for one in candidates]
    choice = trials.choice(everything, tell)
    taken = {one.path for one in choice.chosen}
    left = {path: "it is left as it is by the choice of least error" for path in found if path not in taken}
    return list(choice.chosen), left, choice.gap
