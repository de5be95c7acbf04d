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

    The mean is that of each channel: an output that is large and always the same is no success. Where there is no
    spread around it, because a channel has only one number, it is taken to be zero.

    Parameters
    ----------
    axis : int, optional
        Of the channels. Without it: the second of two, four and five axes (images), the last of three (tokens), none
        where there is one.
    """

    def __init__(self, axis: int | None = None) -> None:
        self._axis = axis
        self._off = 0.0
        self._squares = 0.0
        self._sums: Tensor | None = None
        self._rows = 0

    def add(self, ours: Tensor, theirs: Tensor) -> None:
        """Take in a batch. Infinite numbers, as masks make them, do not count."""
        theirs = theirs.double()
        finite = theirs.isfinite() & ~ours.isinf()
        ours, theirs = (torch.where(finite, one.double(), 0.0) for one in (ours, theirs))
        self._off += float((ours - theirs).square().sum())
        self._squares += float(theirs.square().sum())
        sums = self._by_channel(theirs)
        if self._sums is not None and len(self._sums) != len(sums):  # it is no axis of channels: sizes vary along it
            self._rows, self._sums = self._rows * len(self._sums), self._sums.sum(0, keepdim=True)
            sums = sums.sum(0, keepdim=True)
        self._sums = sums if self._sums is None else self._sums + sums
        self._rows += theirs.numel() // len(sums)

    def _by_channel(self, theirs: Tensor) -> Tensor:
        if (self._sums is not None and len(self._sums) == 1) or theirs.dim() < 2:
            return theirs.sum().reshape(1)
        axis = self._axis if self._axis is not None else -1 if theirs.dim() == 3 else 1
        return theirs.movedim(axis, -1).reshape(-1, theirs.shape[axis]).sum(0)

    @property
    def value(self) -> float:
        """The error so far; 0 if there was nothing."""
        if self._sums is None or self._off == 0:
            return 0.0
        spread = self._squares - float(self._sums.square().sum()) / self._rows
        if spread <= 1e-12 * self._squares:
            spread = self._squares
        return float((self._off / spread) ** 0.5) if spread > 0 else float("inf")


class OutputError:
    """The relative error of a model's outputs: the root of the mean square of each output's own."""

    def __init__(self) -> None:
        self._errors: dict[int, Error] = {}

    def add(self, ours: Any, theirs: Any) -> None:
        """Take in the outputs of both models for a batch."""
        for place, (a, b) in enumerate(zip(tensors(ours), tensors(theirs), strict=True)):
            if b.is_floating_point():
                self._errors.setdefault(place, Error()).add(a, b)

    @property
    def value(self) -> float:
        """The error so far; 0 if there was nothing."""
        if not self._errors:
            return 0.0
        return float((sum(one.value**2 for one in self._errors.values()) / len(self._errors)) ** 0.5)


def of_outputs(ours: nn.Module, theirs: nn.Module, data: Iterable[Batch]) -> float:
    """The relative error of a model's outputs, all of them together."""
    error = OutputError()
    for batch in data:
        error.add(run(ours, batch), run(theirs, batch))
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
