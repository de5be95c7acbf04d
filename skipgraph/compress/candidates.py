"""The ways in which each layer can be factored, with what they cost and the error that they make."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import nn

from skipgraph.capture import Captured
from skipgraph.capture.trees import map_tensors, tensors
from skipgraph.compress.choose import Candidate
from skipgraph.compress.data import Batch
from skipgraph.compress.factor import Factoring, Factors, Form, Moments, full_rank
from skipgraph.compress.layers import pair, weight_of
from skipgraph.compress.measured import OutputError, run
from skipgraph.compress.moments import Seen
from skipgraph.compress.sites import Layer
from skipgraph.errors import UsageError

_RANKS = 16  # candidates of a layer and form
_WORST = 1e12  # weight of a layer whose change no number can be given to
_SAMPLES = 8  # of noise; half as many where they are large
_SMALL = 1 << 14  # numbers of a sample that is not
_PROBED = 8  # batches that a layer's effect on the output is measured with
_FORMS: tuple[Form, ...] = ("project", "restore")


class Bench:
    """Makes pairs of layers, each from the same weight and moments."""

    def __init__(self, model: Captured, seen: Mapping[str, Seen]) -> None:
        self.model = model
        self._seen = seen
        self._moments: dict[str, Moments] = {}  # of the layer that was asked for last, as the factorings are
        self._factorings: dict[tuple[str, Form], Factoring] = {}

    def moments(self, path: str) -> Moments | None:
        """The moments of a layer, shrunk; None without data."""
        if path not in self._seen:
            return None
        if path not in self._moments:
            self._moments = {path: self._seen[path].moments(weight_of(self.model.get_submodule(path)))}
        return self._moments[path]

    def factors(self, path: str, form: Form, rank: int, *, descents: int) -> Factors:
        """The best factors that are known, or, without descents, a bound of them."""
        if (path, form) not in self._factorings:
            kept = {key: one for key, one in self._factorings.items() if key[0] == path}
            weight = weight_of(self.model.get_submodule(path))
            self._factorings = {**kept, (path, form): Factoring(weight, form, self.moments(path))}
        return self._factorings[path, form].at(rank, descents=descents)

    def pair(self, one: Candidate, *, descents: int = 0) -> nn.Sequential:
        """The pair of layers for a candidate; its bias makes good the mean that is lost."""
        module: Any = self.model.get_submodule(one.path)
        factors = self.factors(one.path, one.form, one.rank, descents=descents)
        bias = module.bias.detach().double().cpu().numpy() if module.bias is not None else None
        if one.path in self._seen:
            offset = self._seen[one.path].offset(weight_of(module), factors.product())
            bias = offset if bias is None else bias + offset
        return pair(module, factors, bias)


def at_rank(bench: Bench, layer: Layer, rank: float | int, left: dict[str, str]) -> Candidate | None:
    """The candidate of a rank that is the same for all layers; ``left`` is told why there is none."""
    full = min(layer.shape[1], layer.shape[0] * layer.shape[2])
    wanted = int(rank) if isinstance(rank, Integral) else max(1, round(rank * full))
    if not isinstance(rank, Integral) and rank == 1:
        return None
    if wanted > full:
        raise UsageError(
            f"rank {wanted} is above the full rank of {layer.path}, which is {full}", "Give a lower rank, or a share."
        )
    even = layer.break_even("project")
    if wanted > even:
        left[layer.path] = f"at rank {wanted} {layer.path} costs more than it does now, break-even is rank {even}"
        return None
    return candidate(bench, layer, "project", wanted)


def within(bench: Bench, layer: Layer, limit: float, left: dict[str, str]) -> Candidate | None:
    """The cheapest candidate whose error is not above what is asked."""
    best = None
    for form in _forms(layer):
        even = layer.break_even(form)

        def off(rank: int, form: Form = form) -> float:
            return candidate(bench, layer, form, rank).error

        rank = bisect_left(range(1, even + 1), True, key=lambda rank: off(rank) <= limit) + 1
        if rank <= even:
            one = candidate(bench, layer, form, rank)
            if best is None or one.more["flops"] < best.more["flops"]:
                best = one
    if best is None:
        left[layer.path] = f"{layer.path} has no rank that is cheaper and within {limit:g}"
    return best


def candidates_of(bench: Bench, layer: Layer, *, all_forms: bool = False) -> list[Candidate]:
    """Candidates of a layer over all ranks that make it cheaper, without those that another one beats at no cost.

    With ``all_forms`` only those of the same form count as such: others may be better by what is not known yet.
    """
    found = []
    for form in _forms(layer):
        even = min(layer.break_even(form), full_rank(weight_of(bench.model.get_submodule(layer.path)), form))
        ranks = sorted({max(1, round(even * step / _RANKS)) for step in range(1, _RANKS + 1)}) if even else []
        found += [candidate(bench, layer, form, rank) for rank in ranks]
    return [
        one for one in found
        if not any((other.form == one.form or not all_forms) and other.error < one.error
                   and other.more["flops"] <= one.more["flops"]
                   and other.more["parameters"] <= one.more["parameters"] for other in found)
    ]  # fmt: skip


def _forms(layer: Layer) -> tuple[Form, ...]:
    return _FORMS if layer.shape[2] > 1 else _FORMS[:1]


def candidate(bench: Bench, layer: Layer, form: Form, rank: int) -> Candidate:
    """One way to factor a layer, with its price, and its error before any descent."""
    flops, parameters = layer.price(rank, form)
    error = bench.factors(layer.path, form, rank, descents=0).error
    return Candidate(layer.path, form, rank, error, error**2, {"flops": flops, "parameters": parameters})


def weighed(
    bench: Bench, found: Mapping[str, Sequence[Candidate]], data: Iterable[Batch], tell: Callable[[str], None]
) -> dict[str, list[Candidate]]:
    """The candidates with the harm that they do to the model's output.

    Each layer is factored alone, in the middle of its candidates, and the model run on some data: the squared error of
    the output for that of the layer is its weight. To first order the harms of several layers add up.
    """
    result = {}
    batches = [batch for _, batch in zip(range(_PROBED), data, strict=False)]
    wanted = [run(bench.model, batch) for batch in batches]
    for number, (path, candidates) in enumerate(found.items()):
        tell(f"weighing {path} ({number + 1} of {len(found)})")
        probe = sorted(candidates, key=lambda one: one.error)[len(candidates) // 2]
        whole = bench.model.get_submodule(path)
        changed = bench.pair(probe)
        bench.model.set_submodule(path, changed)
        try:
            outputs = [run(bench.model, batch) for batch in batches]
        finally:
            bench.model.set_submodule(path, whole)
        error = OutputError()
        for ours, theirs in zip(outputs, wanted, strict=True):
            error.add(ours, theirs)
        weight = (error.value / probe.error) ** 2 if probe.error > 0 else 1.0
        weight = weight if math.isfinite(weight) else _WORST
        result[path] = [
            Candidate(one.path, one.form, one.rank, one.error, weight * one.error**2, one.more) for one in candidates
        ]
    return result


def noise(example: Batch, seed: int) -> list[Batch]:
    """Random inputs where there is no data: batches of the examples' shapes, together of some samples."""
    sizes = [tensor.shape[0] for tensor in tensors(example) if tensor.dim()]
    small = sum(tensor.numel() for tensor in tensors(example)) <= _SMALL * max(sizes, default=1)
    count = max(1, (_SAMPLES if small else _SAMPLES // 2) // max(sizes, default=1))
    generator = torch.Generator().manual_seed(seed)

    def noise(tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_floating_point():
            return torch.zeros_like(tensor, device="cpu") if tensor.device.type == "meta" else tensor
        return torch.randn(tensor.shape, generator=generator).to(tensor.dtype)

    return [map_tensors(noise, example) for _ in range(count)]
