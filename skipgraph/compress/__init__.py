"""Layers of lower rank: the lossy part of a rewrite, done before concats become sums.

Each layer that reads a concat, and on request every other linear layer, may be replaced by a pair of layers with fewer
channels between them (law 7). The first of a pair is bias-free, so that the exact rewrite then takes the concat in
front of it apart: what is added up, and held, has the rank's channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from skipgraph.capture import Captured
from skipgraph.compress.asked import Asked, Method
from skipgraph.compress.candidates import Bench, noise
from skipgraph.compress.compensate import compensated
from skipgraph.compress.data import Batch, Calibration
from skipgraph.compress.factor import DESCENTS, Form
from skipgraph.compress.install import expand
from skipgraph.compress.layers import pair
from skipgraph.compress.measured import Error, of_outputs, run
from skipgraph.compress.moments import Seen, gathered
from skipgraph.compress.picking import picked
from skipgraph.compress.recalibrate import recalibrate
from skipgraph.compress.sites import Layer, sources_of
from skipgraph.compress.trials import Trials
from skipgraph.errors import UsageError

__all__ = ["Asked", "Calibration", "Compressed", "Factored", "Looked", "compress", "look"]


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
    bias : bool
        Whether the layer had one; the pair has.
    """

    path: str
    merge: str | None
    form: Form
    rank: int
    predicted: float
    measured: float | None
    flops: int
    parameters: int
    bias: bool


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
    sources : frozenset of str
        Paths of the layers that projections may be folded into.
    """

    model: Captured
    layers: tuple[Factored, ...]
    left: dict[str, str]
    predicted: float | None
    measured: float | None
    gap: float
    method: Method
    notes: list[str] = field(default_factory=list)
    sources: frozenset[str] = frozenset()


def compress(
    original: Captured,
    layers: Sequence[Layer],
    asked: Asked,
    example: Batch,
    data: Iterable[Any] | None = None,
    *,
    trials: Trials | None = None,
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
    trials : Trials, optional
        What a budget takes.
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
    looked = look(original, layers, example, data, method=asked.method, seed=seed, tell=tell)
    source, calibration, bench, method = looked.source, looked.data, looked.bench, looked.method
    chosen, left, gap = picked(bench, layers, asked, calibration or noise(example, seed), tell, trials)
    notes = list(looked.notes)
    if trials is not None and "latency" in trials.reached:
        notes.append(f"The time of a run here has changed by {trials.reached['latency']:+.1%}, measured in turns.")
    order = {layer.path: number for number, layer in enumerate(layers)}
    chosen = sorted(chosen, key=lambda one: order[one.path])
    work = original.copy().eval()
    descents = 0 if method == "compensated" else DESCENTS  # there they are only looked at
    pairs = {one.path: bench.pair(one, descents=descents) for one in chosen}
    measured = _measured(source, pairs, calibration) if calibration is not None else {}
    done = []
    for number, one in enumerate(chosen):
        tell(f"factoring {one.path} ({number + 1} of {len(chosen)})")
        made = pairs[one.path]
        if method == "compensated" and calibration is not None:
            factors, bias = compensated(source, work, one.path, one.form, one.rank, calibration, seed=seed)
            made = pair(source.get_submodule(one.path), factors, bias)
        work.set_submodule(one.path, made)
        layer = layers[order[one.path]]
        more = layer.price(one.rank, one.form)
        done.append(
            Factored(one.path, layer.merge, one.form, one.rank, one.error, measured.get(one.path), *more, layer.bias)
        )
    if calibration is not None and asked.recalibrated:
        tell("moving the statistics of batch norms")
        work = _recalibrated(work, source, calibration)
        notes += _unmoved(original)
    predicted = sum(one.harm for one in chosen) ** 0.5
    reached_error = of_outputs(work, source, calibration) if calibration is not None else None
    expand(work, [one.path for one in chosen])
    work.train(original.training)
    return Compressed(work, tuple(done), left, predicted, reached_error, gap, method, notes, sources_of(layers))


@dataclass(frozen=True, slots=True)
class Looked:
    """What was seen of the layers that may be factored.

    ``source`` is a copy of the original, ``data`` None without calibration data.
    """

    source: Captured
    data: Calibration | None
    bench: Bench
    method: Method
    notes: list[str]


def look(
    original: Captured,
    layers: Sequence[Layer],
    example: Batch,
    data: Iterable[Any] | None,
    *,
    method: Method | None = None,
    seed: int = 0,
    tell: Callable[[str], None] = lambda text: None,
) -> Looked:
    """Gather the moments of the layers' inputs, if there is data and the method asks for them."""
    names = [str(node.target) for node in original.graphs[False].nodes if node.op == "placeholder"]
    calibration = Calibration(data, example, names) if data is not None else None
    method = method or ("svd" if calibration is None else "compensated")
    if method != "svd" and calibration is None:
        raise UsageError(f"the method {method} needs calibration data", "Give some, or use the method svd.")
    source = original.copy().eval()
    seen: dict[str, Seen] = {}
    notes: list[str] = []
    if calibration is not None and method != "svd":
        tell("looking at the layers' inputs")
        seen = gathered(source, [layer.path for layer in layers], calibration, run, seed=seed)
        notes = _scarce(layers, seen)
    return Looked(source, calibration, Bench(source, seen), method, notes)


def _recalibrated(work: Captured, source: Captured, data: Iterable[Batch]) -> Captured:
    """The model with its batch norms moved, or only their means, or neither: whatever is nearest to the original."""
    found = [(of_outputs(work, source, data), work)]
    for scale in (False, True):
        moved = work.copy()
        if recalibrate(moved, source, data, run, scale=scale):
            found.append((of_outputs(moved, source, data), moved))
    return min(found, key=lambda one: one[0])[1]


def _unmoved(model: Captured) -> list[str]:
    """A note where norms are not modules of torch's own, whose statistics could be moved."""
    count = sum(node.target is torch.nn.functional.batch_norm for node in model.graphs[False].nodes)
    if not count:
        return []
    norms = "1 batch norm is" if count == 1 else f"{count} batch norms are"
    return [f"{norms} called as a function, or of a class of its own: the statistics stay as they were."]


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
