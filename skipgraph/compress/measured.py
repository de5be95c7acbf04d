"""What errors a change of one layer makes: at its own output, and at the model's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from skipgraph.capture import Captured
from skipgraph.capture.trees import map_tensors, tensors
from skipgraph.compress.data import Batch
from skipgraph.errors import InputError


class Stop(Exception):  # noqa: N818
    """Raised by a hook where a run has gone far enough."""


def run(model: nn.Module, batch: Batch) -> Any:
    """The outputs of a model in evaluation, without gradients, for inputs cast to its device and dtype.

    Raises
    ------
    InputError
        If the model cannot be run on them.
    """
    args, kwargs = fitted(model, batch)
    try:
        with torch.no_grad():
            return model(*args, **kwargs)
    except Stop:
        raise
    except Exception as error:
        shapes = ", ".join("x".join(map(str, tensor.shape)) for tensor in tensors(batch))
        raise InputError(
            f"the model cannot be run on calibration data of shape {shapes}: {type(error).__name__}: {error}",
            "Give inputs as the model takes them; its example inputs show how.",
        ) from error


def fitted(model: nn.Module, batch: Batch) -> Batch:
    """A batch on the model's device, its numbers in the model's dtype."""
    like = next((one for one in (*model.parameters(), *model.buffers()) if one.is_floating_point()), None)

    def cast(tensor: Tensor) -> Tensor:
        if like is None:
            return tensor
        return tensor.to(like.device, like.dtype if tensor.is_floating_point() else tensor.dtype)

    found: Batch = map_tensors(cast, batch)
    return found


class Error:
    """A relative error, ``sqrt(Σ‖a − b‖² / Σ‖b − mean‖²)``, streamed over batches.

    The mean is that of each channel, which stands along ``axis`` of what is compared: an output that is large and
    always the same is no success.
    """

    def __init__(self, axis: int = 1) -> None:
        self._axis = axis
        self._off = 0.0
        self._squares = 0.0
        self._sums: Tensor | None = None
        self._count = 0

    def add(self, ours: Tensor, theirs: Tensor) -> None:
        """Take in a batch."""
        ours, theirs = ours.double(), theirs.double()
        self._off += float((ours - theirs).square().sum())
        self._squares += float(theirs.square().sum())
        axis = self._axis if theirs.dim() > self._axis else theirs.dim() - 1
        rows = theirs.movedim(axis, -1).reshape(-1, theirs.shape[axis])
        self._sums = rows.sum(0) if self._sums is None else self._sums + rows.sum(0)
        self._count += len(rows)

    @property
    def value(self) -> float:
        """The error so far; 0 if there was nothing."""
        if self._sums is None:
            return 0.0
        spread = self._squares - float(self._sums.square().sum()) / self._count
        return float((self._off / spread) ** 0.5) if spread > 0 else 0.0


def of_outputs(ours: nn.Module, theirs: nn.Module, data: Iterable[Batch]) -> float:
    """The relative error of a model's outputs, all of them together."""
    error = Error()
    for batch in data:
        for a, b in zip(tensors(run(ours, batch)), tensors(run(theirs, batch)), strict=True):
            if b.is_floating_point() and b.dim():
                error.add(a, b)
    return error.value


def reached(model: Captured, path: str, batch: Batch) -> tuple[Tensor, Tensor]:
    """What the layer at ``path`` reads and makes, in a run that ends there."""
    found: list[tuple[Tensor, Tensor]] = []

    def look(module: nn.Module, given: tuple[Any, ...], made: Tensor) -> None:
        found.append((given[0].detach(), made.detach()))
        raise Stop

    handle = model.get_submodule(path).register_forward_hook(look)
    try:
        run(model, batch)
    except Stop:
        pass
    finally:
        handle.remove()
    return found[0]
