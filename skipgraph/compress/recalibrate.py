"""Statistics of batch norms behind layers that were factored."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipgraph.compress.data import Batch

Run = Callable[[nn.Module, Batch], Any]
Statistics = tuple[Tensor, Tensor]  # mean and variance of each channel


def recalibrate(model: nn.Module, original: nn.Module, data: Iterable[Batch], run: Run, *, scale: bool = True) -> int:
    """Move the statistics of batch norms as far as factoring has moved what they read; returns how many were moved.

    Both models run on the data, in evaluation. A norm of ``model`` gets the variance that it had times the ratio of the
    variances that both read, and the mean by which it makes the same mean as in the original. Each is moved for the
    rest of the run already, so that what stands behind it reads what it will. A norm that reads what it did before
    keeps its statistics, whatever the data.

    Parameters
    ----------
    model : Module
        Changed in place; batch norms that track statistics have the same paths in both.
    original : Module
    data : iterable
        Batches of inputs; labels are not needed.
    run : callable
        Runs a model on a batch, in evaluation.
    scale : bool
        Move variances too. Factoring takes variance away; to restore it makes later layers see what they are used to,
        and makes what is wrong larger too.
    """
    theirs, ours = _norms(original), _norms(model)
    shared = [path for path in ours if path in theirs]
    read: dict[str, list[Statistics]] = {path: [] for path in shared}  # of each call, in order
    moves = {path: _Move(ours[path], scale=scale) for path in shared}
    handles = [theirs[path].register_forward_pre_hook(_note(read[path])) for path in shared]
    handles += [ours[path].register_forward_hook(_moved(moves[path], read[path])) for path in shared]
    try:
        for batch in data if shared else ():
            run(original.eval(), batch)
            run(model.eval(), batch)
            for calls in read.values():
                calls.clear()
    finally:
        for handle in handles:
            handle.remove()
    return sum(moves[path].apply() for path in shared)


class _Move:
    """By how much what a norm reads has moved, over all batches."""

    def __init__(self, norm: Any, *, scale: bool) -> None:
        self._norm = norm
        self._scale = scale
        self._sums: list[Tensor] = []
        self._calls = 0

    def add(self, ours: Statistics, theirs: Statistics) -> None:
        found = [*ours, *theirs]
        self._sums = [a + b for a, b in zip(self._sums, found, strict=True)] if self._sums else found
        self._calls += 1

    def statistics(self, ours: Statistics, theirs: Statistics) -> Statistics:
        """The mean and the variance with which the norm makes of ours what it made of theirs."""
        norm = self._norm
        variance = norm.running_var
        if self._scale:
            known = (theirs[1] > 0) & (ours[1] > 0)
            variance = variance * torch.where(known, ours[1] / theirs[1], 1.0)
        scale = ((variance + norm.eps) / (norm.running_var + norm.eps)).sqrt()
        return (ours[0] - theirs[0] * scale) + norm.running_mean * scale, variance  # as it was, to the bit, if equal

    def apply(self) -> bool:
        if not self._calls:
            return False
        mean, variance, *theirs = (one / self._calls for one in self._sums)
        if torch.equal(mean, theirs[0]) and torch.equal(variance, theirs[1]):
            return False
        mean, variance = self.statistics((mean, variance), (theirs[0], theirs[1]))
        with torch.no_grad():
            self._norm.running_mean.copy_(mean)
            self._norm.running_var.copy_(variance)
        return True


def _norms(model: nn.Module) -> dict[str, Any]:
    return {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None
    }


def _statistics(given: Tensor) -> Statistics:
    axes = [axis for axis in range(given.dim()) if axis != 1]
    return given.mean(axes), given.var(axes, correction=0)


def _note(read: list[Statistics]) -> Callable[..., None]:
    def note(norm: nn.Module, given: tuple[Any, ...]) -> None:
        read.append(_statistics(given[0]))

    return note


def _moved(move: _Move, read: list[Statistics]) -> Callable[..., Tensor]:
    def moved(norm: Any, given: tuple[Any, ...], made: Tensor) -> Tensor:
        ours, theirs = _statistics(given[0]), read.pop(0)
        move.add(ours, theirs)
        mean, variance = move.statistics(ours, theirs)
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
