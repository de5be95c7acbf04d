"""Statistics of batch norms, taken anew."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from skipgraph.compress.data import Batch


def recalibrate(model: nn.Module, data: Iterable[Batch], run: Callable[[nn.Module, Batch], Any]) -> int:
    """Let every batch norm that tracks statistics take the mean of those of all batches; returns how many there are.

    The rest of the model stays in evaluation: dropout is off. Labels are not needed.
    """
    norms = [
        module
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None
    ]
    if not norms:
        return 0
    modes = {module: module.training for module in model.modules()}
    momenta = {norm: norm.momentum for norm in norms}
    model.eval()
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean over the batches
            norm.training = True
        for batch in data:
            run(model, batch)
    finally:
        for norm in norms:
            norm.momentum = momenta[norm]
        for module, mode in modes.items():
            module.training = mode
    return len(norms)
