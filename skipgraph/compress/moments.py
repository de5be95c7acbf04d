"""Second moments of what layers read and make, streamed over calibration data in float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from skipgraph.compress.factor import Array, Moments
from skipgraph.compress.layers import TRANSPOSED, is_linear_layer, patches, positions, sizes

PATCH_LIMIT = 4608  # rows of the largest covariance of patches: 170 MB
_ROWS = 4096  # positions of a batch that are looked at, drawn at random where there are more
_SHARE = 1e-6  # of the mean variance that is always added: directions that the data never took stay bounded

Batch = tuple[tuple[Any, ...], dict[str, Any]]


class Running:
    """Mean and covariance of rows that come in batches (Chan, Golub and LeVeque, 1983); memory does not grow."""

    def __init__(self, rows: int, columns: int | None = None) -> None:
        self.count = 0
        self._left, self._right = np.zeros(rows), np.zeros(columns or rows)
        self._product = np.zeros((rows, columns or rows))

    def add(self, left: Tensor, right: Tensor | None = None) -> None:
        """Take in rows of one tensor, or of two that belong together."""
        a = left.detach().double().cpu().numpy()
        b = a if right is None else right.detach().double().cpu().numpy()
        count, mean_a, mean_b = len(a), a.mean(0), b.mean(0)
        total = self.count + count
        step_a, step_b = mean_a - self._left, mean_b - self._right
        self._product += (a - mean_a).T @ (b - mean_b) + np.outer(step_a, step_b) * self.count * count / total
        self._left += step_a * count / total
        self._right += step_b * count / total
        self.count = total

    @property
    def mean(self) -> Array:
        """Mean of the rows of the first tensor."""
        return self._left

    @property
    def covariance(self) -> Array:
        """Their covariance, with that of the second tensor's rows if there are two."""
        return self._product / max(self.count, 1)


def shrinkage(covariance: Array, count: int) -> float:
    """How far a covariance of so many rows is to be drawn towards a multiple of the identity: from 0 to 1.

    The oracle approximating shrinkage of Chen, Wiesel, Eldar and Hero (IEEE Transactions on Signal Processing, 2010).
    """
    size = len(covariance)
    trace, squares = float(np.trace(covariance)), float(np.sum(covariance**2))
    above = (1 - 2 / size) * squares + trace**2
    below = (count + 1 - 2 / size) * (squares - trace**2 / size)
    share = min(1.0, above / below) if below > 0 else 1.0
    return max(share, _SHARE)


def shrunk(covariance: Array, count: int) -> Array:
    """A covariance drawn towards a multiple of the identity, as far as its number of rows asks for."""
    share, size = shrinkage(covariance, count), len(covariance)
    return np.asarray((1 - share) * covariance + share * np.trace(covariance) / size * np.eye(size))


@dataclass(slots=True)
class Seen:
    """What was seen of one layer.

    Attributes
    ----------
    channels : Running
        Of what it reads, position by position.
    patches : Running or None
        Of what it reads for each output; None where that is too large, or the layer is transposed.
    outputs : Running
        Of what it makes.
    share : float
        Of the taps that an output sees: a transposed layer of stride two sees one of two along an axis.
    """

    channels: Running
    patches: Running | None
    outputs: Running
    share: float = 1.0

    @property
    def rows(self) -> int:
        """Output positions that were looked at."""
        return self.outputs.count

    def moments(self, weight: Array) -> Moments:
        """The moments for `skipgraph.compress.factor`, shrunk; the outputs' follow from the patches', if known."""
        channels = shrunk(self.channels.covariance, self.channels.count)
        if self.patches is None:
            return Moments(channels, None, self.outputs.covariance)
        covariance = shrunk(self.patches.covariance, self.patches.count)
        flat = weight.reshape(len(weight), -1)
        return Moments(channels, covariance, flat @ covariance @ flat.T)

    def offset(self, old: Array, new: Array) -> Array:
        """By how much the mean output of ``new`` falls short of that of ``old``: what a bias makes good."""
        if self.patches is not None:
            return np.asarray((old - new).reshape(len(old), -1) @ self.patches.mean)
        return np.asarray((old - new).sum(2) @ self.channels.mean) * self.share


def has_patches(module: Any) -> bool:
    """Whether the covariance of a layer's patches is gathered."""
    _, channels, taps = sizes(module)
    return type(module) not in TRANSPOSED and channels * taps <= PATCH_LIMIT


def gathered(
    model: nn.Module,
    paths: Iterable[str],
    data: Iterable[Batch],
    run: Callable[[nn.Module, Batch], Any],
    *,
    seed: int = 0,
) -> dict[str, Seen]:
    """Run the model on all data, and look at the layers at ``paths``.

    Memory is that of the covariances, whatever the number of samples.
    """
    seen: dict[str, Seen] = {}
    generator = torch.Generator().manual_seed(seed)
    handles = []
    for path in paths:
        module: Any = model.get_submodule(path)
        assert is_linear_layer(module)
        out, channels, taps = sizes(module)
        seen[path] = Seen(
            Running(channels),
            Running(channels * taps) if has_patches(module) else None,
            Running(out),
            1.0 / math.prod(module.stride) if type(module) in TRANSPOSED else 1.0,
        )
        handles.append(module.register_forward_hook(_hook(seen[path], generator)))
    try:
        for batch in data:
            run(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _hook(seen: Seen, generator: torch.Generator) -> Callable[..., None]:
    def look(module: Any, given: tuple[Any, ...], made: Tensor) -> None:
        outputs = positions(module, made)
        chosen = drawn(len(outputs), generator)
        seen.outputs.add(outputs if chosen is None else outputs[chosen])
        if seen.patches is not None:
            seen.patches.add(patches(module, given[0], chosen))
        rows = positions(module, given[0])
        chosen = drawn(len(rows), generator)
        seen.channels.add(rows if chosen is None else rows[chosen])

    return look


def drawn(count: int, generator: torch.Generator) -> Tensor | None:
    """Numbers of the positions that are looked at; None for all."""
    return torch.randperm(count, generator=generator)[:_ROWS] if count > _ROWS else None


__all__ = ["Batch", "Running", "Seen", "drawn", "gathered", "has_patches", "shrunk"]
