"""Factors against the original's outputs, for what the layer reads in the rewritten model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import scipy.linalg
import torch

from skipgraph.capture import Captured
from skipgraph.compress.data import Batch
from skipgraph.compress.factor import Array, Factors, Form, Moments, factored
from skipgraph.compress.layers import patches, positions, sizes, weight_of
from skipgraph.compress.measured import reached
from skipgraph.compress.moments import Running, drawn, has_patches, shrinkage, shrunk


def compensated(
    original: Captured, rewritten: Captured, path: str, form: Form, rank: int, data: Iterable[Batch], *, seed: int = 0
) -> tuple[Factors, Array]:
    """The best factors for what a layer reads now, and their bias.

    The minimum of ``E‖y − W'P ẑ − c‖²``, where y is what the layer makes in the original and ẑ what it reads in
    ``rewritten``, whose earlier layers are factored already: what they spoil is made good as far as a linear layer can.

    Proof. Let ``G`` be the least-squares map from ẑ to y. The rest of y is uncorrelated with ẑ, so that
    ``E‖y − M ẑ‖² = E‖y − G ẑ‖² + E‖(G − M) ẑ‖²`` for every M, all centred: the best factors are those of G under
    the moments of ẑ. ∎ The fewer the samples, the further G is drawn towards the layer's own weight, by the share by
    which the covariance of ẑ is shrunk.
    """
    module: Any = original.get_submodule(path)
    weight = weight_of(module)
    whole = has_patches(module)
    out, channels, taps = sizes(module)
    inputs = Running(channels)
    read = Running(channels * taps if whole else out)
    both = Running(channels * taps if whole else out, out)
    outputs = Running(out)
    generator = torch.Generator().manual_seed(seed)
    for batch in data:
        _, wanted = reached(original, path, batch)
        given, _ = reached(rewritten, path, batch)
        made = positions(module, wanted)
        chosen = drawn(len(made), generator)
        made = made if chosen is None else made[chosen]
        rows = patches(module, given, chosen) if whole else _through(module, given, chosen)
        read.add(rows)
        both.add(rows, made)
        outputs.add(made)
        inputs.add(positions(module, given))
    covariance = shrunk(read.covariance, read.count)
    share = shrinkage(read.covariance, read.count)
    prior = weight.reshape(out, -1) if whole else np.eye(out)
    towards = share * (float(np.trace(read.covariance)) / len(covariance) or 1.0)  # dead inputs: the weight itself
    gram = (1 - share) * read.covariance + towards * np.eye(len(covariance))
    best = scipy.linalg.solve(gram, (1 - share) * both.covariance + towards * prior.T, assume_a="pos").T
    if whole:
        weight = best.reshape(weight.shape)
        moments = Moments(shrunk(inputs.covariance, inputs.count), covariance, best @ covariance @ best.T)
    else:
        weight = (best @ weight.reshape(out, -1)).reshape(weight.shape)
        moments = Moments(shrunk(inputs.covariance, inputs.count), None, best @ read.covariance @ best.T)
    factors = factored(weight, rank, form, moments)
    return factors, outputs.mean - _mean(factors, weight, best, read, whole=whole, inputs=inputs, module=module)


def _through(module: Any, given: torch.Tensor, chosen: torch.Tensor | None) -> torch.Tensor:
    """What the layer's own weight makes of an input, without its bias."""
    with torch.no_grad():
        made = positions(module, module(given))
        made = made if module.bias is None else made - module.bias
    return made if chosen is None else made[chosen]


def _mean(
    factors: Factors, weight: Array, best: Array, read: Running, *, whole: bool, inputs: Running, module: Any
) -> Array:
    """The mean output of the factors, without a bias."""
    product = factors.product()
    if whole:
        return np.asarray(product.reshape(len(product), -1) @ read.mean)
    stride = getattr(module, "stride", (1,))
    share = 1.0 / np.prod(stride) if type(module).__name__.startswith("ConvTranspose") else 1.0
    lost = (weight - product).sum(2) @ inputs.mean * share
    return np.asarray(best @ read.mean - lost)
