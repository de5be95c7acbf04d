"""Random inputs like the examples, at other batch and spatial sizes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from skipgraph.capture.trees import map_tensors, tensors

Inputs = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Sizes:
    """Other sizes than the examples'.

    Attributes
    ----------
    batch : int or None
        In place of the leading size of the first input, wherever it leads.
    changed : dict
        Other sizes, traced -> wanted.
    """

    batch: int | None = None
    changed: dict[int, int] = field(default_factory=dict)

    def of(self, tensor: torch.Tensor, batch: int | None) -> tuple[int, ...]:
        """The shape of an input like ``tensor``, where ``batch`` is the examples' batch size."""
        shape = list(tensor.shape)
        first = 2 if tensor.ndim > 3 else 1  # channels of an image keep their number
        for axis in range(first, tensor.ndim):
            shape[axis] = self.changed.get(shape[axis], shape[axis])
        if shape and self.batch is not None and shape[0] == batch:
            shape[0] = self.batch
        return tuple(shape)


def draw(inputs: Inputs, sizes: Sizes, seed: int, device: torch.device) -> Inputs:
    """Random inputs: floating-point ones in the range of the examples, integers among their values.

    Tensors of truth values, of zeros and ones, and with infinite values are masks: they stay, stretched if need be.
    """
    generator = torch.Generator().manual_seed(seed)
    batch = next((tensor.shape[0] for tensor in tensors(inputs) if tensor.ndim), None)
    drawn: Inputs = map_tensors(
        lambda tensor: _like(tensor.detach().cpu(), sizes.of(tensor, batch), generator).to(device), inputs
    )
    return drawn


def _like(tensor: torch.Tensor, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    if tensor.is_complex():
        return torch.randn(shape, generator=generator, dtype=torch.complex128).to(tensor.dtype)
    whole = not tensor.is_floating_point()
    if not tensor.numel() or (whole and bool(((tensor == 0) | (tensor == 1)).all())):
        return _stretched(tensor, shape)
    if whole:
        chosen = torch.randint(tensor.numel(), shape, generator=generator)
        return tensor.flatten()[chosen]
    values = tensor.double()
    if not bool(values.isfinite().all()):
        return _stretched(tensor, shape)
    low, high = values.min().item(), values.max().item()
    if low == high:
        noise = torch.rand(shape, generator=generator, dtype=torch.float64)
        like = (0.5 + noise) * low if low else torch.randn(shape, generator=generator, dtype=torch.float64)
    elif low >= 0:
        like = torch.rand(shape, generator=generator, dtype=torch.float64) * high
    else:
        noise = torch.randn(shape, generator=generator, dtype=torch.float64)
        like = values.mean() + values.std(correction=0) * noise
    return like.to(tensor.dtype)


def _stretched(tensor: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    for axis, size in enumerate(shape):
        tensor = tensor.index_select(axis, torch.arange(size) % max(1, tensor.shape[axis]))
    return tensor


def shapes(inputs: Inputs) -> tuple[tuple[int, ...], ...]:
    """Of all tensors in the inputs."""
    return tuple(tuple(tensor.shape) for tensor in tensors(inputs))


def smaller(inputs: Inputs) -> Iterator[dict[int, int]]:
    """Smaller spatial sizes to try in turn: about half, in steps of 32 if there is so much."""
    for old in _spatial(inputs):
        yield {size: max(32, size // 64 * 32) if size > 32 else max(2, (size + 1) // 2) for size in old}


def others(inputs: Inputs, base: dict[int, int]) -> Iterator[dict[int, int]]:
    """More spatial sizes to try in turn: odd ones near ``base``, else one step more than the examples'."""
    for old in _spatial(inputs):
        yield {size: base.get(size, size) // 2 * 2 + 5 for size in old}
    for old in _spatial(inputs):
        yield {size: size + (32 if size > 32 else 16) for size in old}


def _spatial(inputs: Inputs) -> Iterator[set[int]]:
    """The sizes of an image; of a sequence, the last size, then the one before."""
    first = max(tensors(inputs), key=lambda tensor: tensor.ndim, default=None)
    if first is None or first.ndim < 2:
        return
    if first.ndim > 3:
        yield set(first.shape[2:])
    else:
        yield from ({size} for size in reversed(first.shape[1:]))
