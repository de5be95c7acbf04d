"""Statistics of batch norms behind layers that were factored."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipgraph.compress.data import Batch

Run = Callable[[nn.Module, Batch], Any]


def recalibrate(model: nn.Module, original: nn.Module, data: Iterable[Batch], run: Run) -> int:
    """Move the statistics of batch norms as far as factoring has moved what they read; returns how many were moved.

    Both models run on the data, in evaluation. Means move by the difference of what both read, variances by the ratio,
    and each norm of ``model`` is moved for the rest of the run already, so that what stands behind it reads what it
    will. A norm that reads what it did before keeps its statistics, whatever the data.

    Parameters
    ----------
    model : Module
        Changed in place; batch norms that track statistics have the same paths in both.
    original : Module
    data : iterable
        Batches of inputs; labels are not needed.
    run : callable
        Runs a model on a batch, in evaluation.
    """
    theirs, ours = _norms(original), _norms(model)
    shared = [path for path in ours if path in theirs]
    read: dict[str, tuple[Tensor, Tensor]] = {}
    moves = {path: _Move() for path in shared}
    handles = [theirs[path].register_forward_pre_hook(_note(read, path)) for path in shared]
    handles += [ours[path].register_forward_hook(_moved(moves[path], read, path)) for path in shared]
    try:
        for batch in data if shared else ():
            run(original.eval(), batch)
            run(model.eval(), batch)
    finally:
        for handle in handles:
            handle.remove()
    for path in shared:
        moves[path].apply(ours[path])
    return sum(not bool((move.shift == 0).all()) for move in moves.values())


class _Move:
    """By how much the mean and the variance of what a norm reads have moved, over all batches."""

    def __init__(self) -> None:
        self.shift: Tensor = torch.zeros(())
        self._ours: Tensor = torch.zeros(())
        self._theirs: Tensor = torch.zeros(())
        self._batches = 0

    def add(self, ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor]) -> None:
        self.shift = self.shift + (ours[0] - theirs[0])
        self._ours, self._theirs = self._ours + ours[1], self._theirs + theirs[1]
        self._batches += 1

    def apply(self, norm: Any) -> None:
        if self._batches:
            with torch.no_grad():
                norm.running_mean += self.shift / self._batches
                norm.running_var *= _ratio(self._ours, self._theirs)


def _ratio(ours: Tensor, theirs: Tensor) -> Tensor:
    return torch.where(theirs > 0, ours / theirs, 1.0)


def _norms(model: nn.Module) -> dict[str, Any]:
    return {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None
    }


def _statistics(given: Tensor) -> tuple[Tensor, Tensor]:
    axes = [axis for axis in range(given.dim()) if axis != 1]
    return given.mean(axes), given.var(axes, correction=0)


def _note(read: dict[str, tuple[Tensor, Tensor]], path: str) -> Callable[..., None]:
    def note(norm: nn.Module, given: tuple[Any, ...]) -> None:
        read[path] = _statistics(given[0])

    return note


def _moved(move: _Move, read: dict[str, tuple[Tensor, Tensor]], path: str) -> Callable[..., Tensor]:
    def moved(norm: Any, given: tuple[Any, ...], made: Tensor) -> Tensor:
        ours, theirs = _statistics(given[0]), read[path]
        move.add(ours, theirs)
        mean = norm.running_mean + ours[0] - theirs[0]
        variance = norm.running_var * _ratio(ours[1], theirs[1])
        return F.batch_norm(given[0], mean, variance, norm.weight, norm.bias, False, 0.0, norm.eps)

    return moved


def taken_anew(model: nn.Module, data: Iterable[Batch], run: Run) -> int:
    """Let every batch norm take the mean of the statistics of all batches; returns how many there are.

    What is usual after pruning: whatever the norms had is lost. The rest of the model stays in evaluation.
    """
    norms = _norms(model.eval())
    momenta = {path: norm.momentum for path, norm in norms.items()}
    try:
        for norm in norms.values():
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean over the batches
            norm.training = True
        for batch in data if norms else ():
            run(model, batch)
    finally:
        for path, norm in norms.items():
            norm.momentum = momenta[path]
            norm.training = False
    return len(norms)
