"""How long the calls of one site take, by themselves, on random numbers."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

import torch
from torch import fx
from torch.utils.benchmark import Timer

from skipgraph.capture import Captured

_BLOCKS = 7
_SECONDS = 0.02  # of one block


def site_seconds(
    model: Captured, before: Sequence[fx.Node], after: Sequence[fx.Node], rewritten: Captured
) -> tuple[float, float] | None:
    """Seconds of some calls of a model, and of those that a rewrite put in their place, in evaluation; medians.

    Blocks of both take turns. None if the calls need more than tensors from outside.
    """
    runs = [_Run(model, before), _Run(rewritten, after)]
    if not all(run.complete for run in runs):
        return None
    with torch.inference_mode():
        timers = [Timer("run()", globals={"run": run}, num_threads=torch.get_num_threads()) for run in runs]
        single = max(timer.timeit(2).mean for timer in timers)
        count = max(1, int(_SECONDS / max(single, 1e-9)))
        times: list[list[float]] = [[], []]
        for _ in range(_BLOCKS):
            for timer, found in zip(timers, times, strict=True):
                found.append(float(timer.timeit(count).mean))
    return median(times[0]), median(times[1])


class _Run:
    """Runs some nodes of a graph in order, what they read from outside drawn once."""

    def __init__(self, model: Captured, nodes: Sequence[fx.Node]) -> None:
        self._nodes = list(nodes)
        self._model = model
        self._given: dict[fx.Node, Any] = {}
        first = next(model.parameters(), torch.empty(0))
        inside = set(self._nodes)
        self._last = {read: node for node in self._nodes for read in node.all_input_nodes}
        self.complete = bool(self._nodes)
        for read in self._last:
            if read in inside:
                continue
            if read.op == "get_attr":
                self._given[read] = _attribute(model, str(read.target))
            elif "shape" in read.meta:
                self._given[read] = torch.randn(read.meta["shape"], dtype=first.dtype, device=first.device)
            else:
                self.complete = False

    def __call__(self) -> None:
        values = dict(self._given)
        for node in self._nodes:
            args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
            if node.op == "call_module":
                values[node] = self._model.get_submodule(str(node.target))(*args, **kwargs)
            elif node.op == "call_method":
                values[node] = getattr(args[0], str(node.target))(*args[1:], **kwargs)
            elif node.op == "get_attr":
                values[node] = _attribute(self._model, str(node.target))
            else:
                values[node] = node.target(*args, **kwargs)  # type: ignore[operator]
            for read in node.all_input_nodes:
                if self._last[read] is node and read not in self._given:
                    values.pop(read, None)


def _attribute(model: Captured, path: str) -> Any:
    owner, _, name = path.rpartition(".")
    return getattr(model.get_submodule(owner), name)
