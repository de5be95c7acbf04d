"""Statistics of batch norms behind layers that were factored."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from skipgraph.compress.data import Batch

Run = Callable[[nn.Module, Batch], Any]


def recalibrate(model: nn.Module, original: nn.Module, data: Iterable[Batch], run: Run) -> int:
    """Move the statistics of batch norms as far as factoring has moved what they read; returns how many were moved.

    Both models run on the data with each norm taking its statistics from the batch. Means move by the difference of
    both, variances by the ratio: a norm that reads what it did before keeps its statistics, whatever the data.

    Parameters
    ----------
    model : Module
        Changed in place; batch norms that track statistics have the same paths in both.
    original : Module
    data : iterable
        Batches of inputs; labels are not needed.
    run : callable
        Runs a model on a batch.
    """
    ours, theirs = (_statistics(one, data, run) for one in (model, original))
    moved = 0
    for path, (mean, variance) in ours.items():
        if path not in theirs:
            continue
        norm: Any = model.get_submodule(path)
        old_mean, old_variance = theirs[path]
        with torch.no_grad():
            moved += not torch.equal(mean, old_mean)
            norm.running_mean += mean - old_mean
            norm.running_var *= torch.where(old_variance > 0, variance / old_variance, 1.0)
    return moved


def _statistics(model: nn.Module, data: Iterable[Batch], run: Run) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and variance of what each norm reads, over all batches; dropout is off."""
    norms: dict[str, Any] = {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None
    }
    if not norms:
        return {}
    before = {path: {name: one.clone() for name, one in norm._buffers.items()} for path, norm in norms.items()}
    modes = {module: module.training for module in model.modules()}
    momenta = {path: norm.momentum for path, norm in norms.items()}
    model.eval()
    try:
        for norm in norms.values():
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean over the batches
            norm.training = True
        for batch in data:
            run(model, batch)
        return {path: (norm.running_mean.clone(), norm.running_var.clone()) for path, norm in norms.items()}
    finally:
        for path, norm in norms.items():
            norm.momentum = momenta[path]
            for name, values in before[path].items():
                norm._buffers[name].copy_(values)
        for module, mode in modes.items():
            module.training = mode
