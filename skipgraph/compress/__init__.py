"""Layers of lower rank: the lossy part of a rewrite, done before concats become sums.

Each layer that reads a concat, and on request every other linear layer, may be replaced by a pair of layers with fewer
channels between them (law 7). The first of a pair is bias-free, so that the exact rewrite then takes the concat in
front of it apart: what is added up, and held, has the rank's channels.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from skipgraph.capture import Captured
from skipgraph.capture.trees import map_tensors, tensors
from skipgraph.compress.choose import Candidate, Choice, chosen, least
from skipgraph.compress.compensate import compensated
from skipgraph.compress.data import Batch, Calibration
from skipgraph.compress.factor import Factors, Form, Moments, factored, full_rank
from skipgraph.compress.install import expand
from skipgraph.compress.layers import pair, weight_of
from skipgraph.compress.measured import Error, of_outputs, run
from skipgraph.compress.moments import Seen, gathered
from skipgraph.compress.recalibrate import recalibrate
from skipgraph.compress.sites import Layer
from skipgraph.errors import BudgetError, UsageError

__all__ = ["Asked", "Calibration", "Compressed", "Factored", "compress"]

Method = Literal["svd", "moments", "compensated"]
_RANKS = 16  # candidates of a layer and form
_PROBED = 8  # batches that a layer's effect on the output is measured with
_FORMS: tuple[Form, ...] = ("project", "restore")


@dataclass(frozen=True, slots=True)
class Asked:
    """What the user wants of the ranks; one of ``rank``, ``max_error`` and ``budget``.

    Attributes
    ----------
    rank : float or int or None
        The same for all layers: a share of the full rank below 1.0 (a float), or a number of channels (an int).
    max_error : float or None
        Relative error of each layer's output that is not to be passed.
    budget : dict or None
        Measure -> by how much it may change, relatively: ``{"flops": -0.3}``. ``"flops"`` and ``"parameters"``.
    method : str or None
        ``"svd"``: truncated, without data. ``"moments"``: by the moments of the layers' inputs. ``"compensated"``: in
        turn, by what the rewritten model gives each layer. Without data the first, else the last.
    recalibrated : bool
        Move the statistics of batch norms as far as factoring has moved what they read.
    exactly : dict or None
        Path of a layer -> form and rank, as an earlier plan has chosen them.
    """

    rank: float | int | None = None
    max_error: float | None = None
    budget: Mapping[str, float] | None = None
    method: Method | None = None
    recalibrated: bool = True
    exactly: Mapping[str, tuple[Form, int]] | None = None

    def __post_init__(self) -> None:
        """Refuse what means nothing."""
        if self.exactly is not None:
            return
        given = [name for name in ("rank", "max_error", "budget") if getattr(self, name) is not None]
        if len(given) != 1:
            raise UsageError(
                f"{' and '.join(given) or 'nothing'} is given to choose the ranks by",
                "Give one of rank, max_error and budget.",
            )
        if self.rank is not None and not _is_rank(self.rank):
            raise UsageError(f"{self.rank} is no rank", "Give a share above 0 and up to 1.0, or a number from 1.")
        if self.max_error is not None and not 0 <= self.max_error < 1:
            raise UsageError(f"{self.max_error} is no relative error", "Give a number from 0 to below 1, such as 0.01.")
        unknown = [name for name in self.budget or {} if name not in ("flops", "parameters")]
        if unknown:
            raise UsageError(f"there is no budget of {unknown[0]}", "Give flops, parameters, or both.")


def _is_rank(rank: float) -> bool:
    return rank >= 1 if isinstance(rank, int) else 0 < rank <= 1


@dataclass(frozen=True, slots=True)
class Factored:
    """One layer that was factored.

    Attributes
    ----------
    path, merge : str
        The layer, and the concat that it reads (None for others).
    form, rank : str, int
    predicted : float
        Relative error of its output.
    measured : float or None
        The same on the calibration data, for the layer alone.
    flops, parameters : int
        By how much these grew.
    """

    path: str
    merge: str | None
    form: Form
    rank: int
    predicted: float
    measured: float | None
    flops: int
    parameters: int


@dataclass(slots=True)
class Compressed:
    """A model with pairs of layers.

    Attributes
    ----------
    model : Captured
        Concats are as they were.
    layers : tuple of Factored
    left : dict
        Path of a layer that could be factored and is not -> why.
    predicted, measured : float
        Relative error of the outputs; ``measured`` on the calibration data, or None without.
    gap : float
        Of the choice, see `skipgraph.compress.choose.Choice`.
    method : str
    notes : list of str
    """

    model: Captured
    layers: tuple[Factored, ...]
    left: dict[str, str]
    predicted: float | None
    measured: float | None
    gap: float
    method: Method
    notes: list[str] = field(default_factory=list)


def compress(
    original: Captured,
    layers: Sequence[Layer],
    asked: Asked,
    example: Batch,
    data: Iterable[Any] | None = None,
    *,
    totals: Mapping[str, float],
    seed: int = 0,
    tell: Callable[[str], None] = lambda text: None,
) -> Compressed:
    """Replace layers by pairs of lower rank.

    Parameters
    ----------
    original : Captured
        It is not changed.
    layers : sequence of Layer
        That may be factored, in order of execution.
    asked : Asked
    example : tuple
        Example inputs.
    data : iterable, optional
        Calibration data, see `skipgraph.compress.data.Calibration`.
    totals : dict
        Multiply-adds and parameters of the whole model, which a budget is a share of.
    seed : int
        Of the positions that are looked at, and of random inputs where there is no data.
    tell : callable
        Told of what is being done.

    Raises
    ------
    BudgetError
        If the budget cannot be met; it says the best that can.
    UsageError
        If the ranks that are asked for make every layer dearer.
    """
    calibration = data if data is None or isinstance(data, Calibration) else Calibration(data, example)
    method: Method = asked.method or ("svd" if calibration is None else "compensated")
    if method != "svd" and calibration is None:
        raise UsageError(f"the method {method} needs calibration data", "Give some, or use the method svd.")
    source = original.copy().eval()
    seen: dict[str, Seen] = {}
    notes: list[str] = []
    if calibration is not None and method != "svd":
        tell("looking at the layers' inputs")
        seen = gathered(source, [layer.path for layer in layers], calibration, run, seed=seed)
        notes += _scarce(layers, seen)
    bench = _Bench(source, seen)
    picked, left, gap = _picked(bench, layers, asked, calibration or _noise(example, seed), totals, tell)
    order = {layer.path: number for number, layer in enumerate(layers)}
    picked = sorted(picked, key=lambda one: order[one.path])
    work = original.copy().eval()
    pairs = {one.path: bench.pair(one) for one in picked}
    measured = _measured(source, pairs, calibration) if calibration is not None else {}
    done = []
    for number, one in enumerate(picked):
        tell(f"factoring {one.path} ({number + 1} of {len(picked)})")
        made = pairs[one.path]
        if method == "compensated" and calibration is not None:
            factors, bias = compensated(source, work, one.path, one.form, one.rank, calibration, seed=seed)
            made = pair(source.get_submodule(one.path), factors, bias)
        work.set_submodule(one.path, made)
        layer = layers[order[one.path]]
        more = layer.price(one.rank, one.form)
        done.append(Factored(one.path, layer.merge, one.form, one.rank, one.error, measured.get(one.path), *more))
    if calibration is not None and asked.recalibrated:
        tell("moving the statistics of batch norms")
        recalibrate(work, source, calibration, run)
    predicted = sum(one.harm for one in picked) ** 0.5 if picked else 0.0
    reached_error = of_outputs(work, source, calibration) if calibration is not None else None
    expand(work, [one.path for one in picked])
    work.train(original.training)
    return Compressed(work, tuple(done), left, predicted, reached_error, gap, method, notes)


class _Bench:
    """Makes pairs of layers, each from the same weight and moments."""

    def __init__(self, model: Captured, seen: Mapping[str, Seen]) -> None:
        self.model = model
        self._seen = seen
        self._moments: dict[str, Moments] = {}

    def moments(self, path: str) -> Moments | None:
        """The moments of a layer, shrunk; None without data."""
        if path not in self._seen:
            return None
        if path not in self._moments:
            self._moments = {path: self._seen[path].moments(weight_of(self.model.get_submodule(path)))}
        return self._moments[path]

    def factors(self, path: str, form: Form, rank: int, *, descents: int) -> Factors:
        """The best factors that are known, or, without descents, a bound of them."""
        weight = weight_of(self.model.get_submodule(path))
        return factored(weight, rank, form, self.moments(path), descents=descents)

    def pair(self, one: Candidate, *, descents: int = 0) -> nn.Sequential:
        """The pair of layers for a candidate; its bias makes good the mean that is lost."""
        module: Any = self.model.get_submodule(one.path)
        factors = self.factors(one.path, one.form, one.rank, descents=descents)
        bias = module.bias.detach().double().cpu().numpy() if module.bias is not None else None
        if one.path in self._seen:
            offset = self._seen[one.path].offset(weight_of(module), factors.product())
            bias = offset if bias is None else bias + offset
        return pair(module, factors, bias)


def _picked(
    bench: _Bench, layers: Sequence[Layer], asked: Asked, data: Iterable[Batch], totals: Mapping[str, float],
    tell: Callable[[str], None],
) -> tuple[list[Candidate], dict[str, str], float]:  # fmt: skip
    """The candidate of each layer that is to be factored; why others are not; the gap of the choice."""
    left: dict[str, str] = {}
    if asked.exactly is not None:
        fixed = [
            _candidate(bench, layer, *asked.exactly[layer.path]) for layer in layers if layer.path in asked.exactly
        ]
        weighed = _weighed(bench, {one.path: [one] for one in fixed}, data, tell)
        return [found for one in fixed for found in weighed[one.path]], left, 0.0
    if asked.budget is None:
        picked = []
        for layer in layers:
            one = (
                _at_rank(bench, layer, asked.rank, left)
                if asked.rank is not None
                else _within(bench, layer, asked, left)
            )
            if one is not None:
                picked.append(one)
        if not picked and not (isinstance(asked.rank, float) and asked.rank == 1):
            raise UsageError(
                f"no layer is factored: {'; '.join(dict.fromkeys(left.values())) or 'there is none that could be'}",
                "Ask for a lower rank, a larger error, or leave them out for the exact rewrite.",
            )
        weighed = _weighed(bench, {one.path: [one] for one in picked}, data, tell)
        return [found for one in picked for found in weighed[one.path]], left, 0.0
    found = {layer.path: _candidates(bench, layer) for layer in layers}
    found = {path: candidates for path, candidates in found.items() if candidates}
    limits = {name: share * totals[name] for name, share in asked.budget.items()}
    everything = [one for candidates in found.values() for one in candidates]
    for name, limit in limits.items():
        best = least(everything, name)
        if best > limit:
            raise BudgetError(
                f"the budget {name}={asked.budget[name]:+.0%} cannot be met: the best that can be is "
                f"{best / totals[name]:+.1%}",
                "Allow more" + ("." if any(layer.merge is None for layer in layers) else ", or give --also linear."),
            )
    weighed = _weighed(bench, found, data, tell)
    choice: Choice | None = chosen([one for candidates in weighed.values() for one in candidates], limits)
    if choice is None:
        raise BudgetError("the budgets cannot be met together, though each can be alone", "Allow more of one of them.")
    taken = {one.path for one in choice.chosen}
    left = {path: "it is left as it is by the choice of least error" for path in found if path not in taken}
    return list(choice.chosen), left, choice.gap


def _at_rank(bench: _Bench, layer: Layer, rank: float | int | None, left: dict[str, str]) -> Candidate | None:
    assert rank is not None
    full = min(layer.shape[1], layer.shape[0] * layer.shape[2])
    wanted = rank if isinstance(rank, int) else max(1, round(rank * full))
    if isinstance(rank, float) and rank == 1:
        return None
    if wanted > full:
        raise UsageError(
            f"rank {wanted} is above the full rank of {layer.path}, which is {full}", "Give a lower rank, or a share."
        )
    even = layer.break_even("project")
    if wanted > even:
        left[layer.path] = f"at rank {wanted} {layer.path} costs more than it does now, break-even is rank {even}"
        return None
    return _candidate(bench, layer, "project", wanted)


def _within(bench: _Bench, layer: Layer, asked: Asked, left: dict[str, str]) -> Candidate | None:
    """The cheapest candidate whose error is not above what is asked."""
    limit = asked.max_error
    assert limit is not None
    best = None
    for form in _forms(layer):
        even = layer.break_even(form)

        def off(rank: int, form: Form = form) -> float:
            return _candidate(bench, layer, form, rank).error

        rank = bisect_left(range(1, even + 1), True, key=lambda rank: off(rank) <= limit) + 1
        if rank <= even:
            one = _candidate(bench, layer, form, rank)
            if best is None or one.more["flops"] < best.more["flops"]:
                best = one
    if best is None:
        left[layer.path] = f"{layer.path} has no rank that is cheaper and within {asked.max_error:g}"
    return best


def _candidates(bench: _Bench, layer: Layer) -> list[Candidate]:
    """Candidates of a layer over all ranks that make it cheaper, without those that another one beats at no cost."""
    found = []
    for form in _forms(layer):
        even = min(layer.break_even(form), full_rank(weight_of(bench.model.get_submodule(layer.path)), form))
        ranks = sorted({max(1, round(even * step / _RANKS)) for step in range(1, _RANKS + 1)}) if even else []
        found += [_candidate(bench, layer, form, rank) for rank in ranks]
    return [
        one for one in found
        if not any(other.error < one.error and other.more["flops"] <= one.more["flops"]
                   and other.more["parameters"] <= one.more["parameters"] for other in found)
    ]  # fmt: skip


def _forms(layer: Layer) -> tuple[Form, ...]:
    return _FORMS if layer.shape[2] > 1 else _FORMS[:1]


def _candidate(bench: _Bench, layer: Layer, form: Form, rank: int) -> Candidate:
    flops, parameters = layer.price(rank, form)
    error = bench.factors(layer.path, form, rank, descents=0).error
    return Candidate(layer.path, form, rank, error, error**2, {"flops": flops, "parameters": parameters})


def _weighed(
    bench: _Bench, found: Mapping[str, Sequence[Candidate]], data: Iterable[Batch], tell: Callable[[str], None]
) -> dict[str, list[Candidate]]:
    """The candidates with the harm that they do to the model's output.

    Each layer is factored alone, in the middle of its candidates, and the model run on some data: the squared error of
    the output for that of the layer is its weight. To first order the harms of several layers add up.
    """
    weighed = {}
    batches = [batch for _, batch in zip(range(_PROBED), data, strict=False)]
    wanted = [list(tensors(run(bench.model, batch))) for batch in batches]
    for number, (path, candidates) in enumerate(found.items()):
        tell(f"weighing {path} ({number + 1} of {len(found)})")
        probe = sorted(candidates, key=lambda one: one.error)[len(candidates) // 2]
        whole = bench.model.get_submodule(path)
        changed = bench.pair(probe)
        bench.model.set_submodule(path, changed)
        try:
            outputs = [list(tensors(run(bench.model, batch))) for batch in batches]
        finally:
            bench.model.set_submodule(path, whole)
        error = Error()
        for ours, theirs in zip(outputs, wanted, strict=True):
            for a, b in zip(ours, theirs, strict=True):
                if b.is_floating_point() and b.dim():
                    error.add(a, b)
        weight = (error.value / probe.error) ** 2 if probe.error > 0 else 1.0
        weighed[path] = [
            Candidate(one.path, one.form, one.rank, one.error, weight * one.error**2, one.more) for one in candidates
        ]
    return weighed


def _measured(model: Captured, pairs: Mapping[str, nn.Module], data: Iterable[Batch]) -> dict[str, float]:
    """The relative error of each pair's output, for what its layer reads in the original."""
    errors: dict[str, Error] = {}
    handles = []
    for path, made in pairs.items():
        module = model.get_submodule(path)
        errors[path] = Error(axis=-1 if isinstance(module, nn.Linear) else 1)

        def look(module: nn.Module, given: Any, wanted: torch.Tensor, path: str = path, made: Any = made) -> None:
            errors[path].add(made(given[0]), wanted)

        handles.append(module.register_forward_hook(look))
    try:
        for batch in data:
            run(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    return {path: error.value for path, error in errors.items()}


def _scarce(layers: Sequence[Layer], seen: Mapping[str, Seen]) -> list[str]:
    """A note where there are too few samples to tell all channels apart."""
    few = [layer for layer in layers if seen[layer.path].rows < 2 * layer.shape[1] * layer.shape[2]]
    if not few:
        return []
    worst = max(few, key=lambda layer: layer.shape[1] * layer.shape[2] / seen[layer.path].rows)
    numbers = worst.shape[1] * worst.shape[2]
    note = (
        f"The calibration data is scarce: {worst.path} reads {numbers} numbers a position and saw "
        f"{seen[worst.path].rows} positions; its covariance is drawn towards white noise as far as that asks for."
    )
    return [note]


def _noise(example: Batch, seed: int) -> list[Batch]:
    """Random inputs where there is no data: one batch of the examples' shapes."""
    generator = torch.Generator().manual_seed(seed)

    def noise(tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_floating_point():
            return torch.zeros_like(tensor, device="cpu") if tensor.device.type == "meta" else tensor
        return torch.randn(tensor.shape, generator=generator).to(tensor.dtype)

    made: Batch = map_tensors(noise, example)
    return [made]
