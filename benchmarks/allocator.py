"""What the CPU allocator really did, by its own events (`torch.profiler` with ``profile_memory=True``)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile


def memory_events(run: Callable[[], Any]) -> list[tuple[int, int]]:
    """``(time in nanoseconds, bytes)`` of every allocation (positive) and release (negative) while ``run`` runs.

    The result of ``run`` is kept until the last event is recorded.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        kept = run()
    del kept
    events = profiler.profiler.kineto_results.events()  # type: ignore[union-attr]
    # Events of one thread come in order, and a stable sort keeps those of one nanosecond so.
    return sorted(
        ((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"),
        key=lambda event: event[0],
    )


def peak_bytes(run: Callable[[], Any], held: int = 0) -> int:
    """Largest running total of allocated bytes while ``run`` runs, on top of ``held`` bytes that were there before.

    ``run`` is called once before, so that lazily initialised buffers are no part of it.
    """
    with torch.no_grad():
        run()
        total = peak = held
        for _, change in memory_events(run):
            total += change
            peak = max(peak, total)
    return peak
