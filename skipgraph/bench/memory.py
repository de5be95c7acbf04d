"""The most memory that a run held at once, by the allocators' own accounts."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile


def peak_bytes(run: Callable[[], Any], device: torch.device, held: int = 0) -> int:
    """The most bytes that were allocated at one time while ``run`` ran, beyond what was there before.

    ``held`` bytes of what was there, such as inputs, are added. What ``run`` returns counts. Call it once before, so
    that buffers that are made at the first use are no part of it.
    """
    if device.type == "cuda":
        return _peak_on_cuda(run, device) + held
    total = peak = held
    for _, change in memory_events(run):
        total += change
        peak = max(peak, total)
    return peak


def memory_events(run: Callable[[], Any]) -> list[tuple[int, int]]:
    """``(time in nanoseconds, bytes)`` of every allocation (positive) and release (negative) on the CPU in ``run``.

    The result of ``run`` is kept until the last event is recorded.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler writes its comings and goings to standard error
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        kept = run()
    del kept
    recorded: Any = profiler.profiler
    # Events of one thread come in order, and a stable sort keeps those of one nanosecond so.
    return sorted(
        (
            (event.start_ns(), event.nbytes())
            for event in recorded.kineto_results.events()
            if event.name() == "[memory]"
        ),
        key=lambda event: event[0],
    )


def _peak_on_cuda(run: Callable[[], Any], device: torch.device) -> int:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    kept = run()
    torch.cuda.synchronize(device)
    del kept
    return torch.cuda.max_memory_allocated(device) - before
