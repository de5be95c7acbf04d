"""The most memory that activations take, as the allocator saw it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile


def peak_bytes(run: Callable[[], Any], device: torch.device, *, held: int = 0) -> int:
    """The most bytes allocated at once while ``run`` runs, on top of ``held`` bytes that were there before.

    ``run`` runs once before, so that what is made on a first call is no part of it.

    Notes
    -----
    On a CPU the events of PyTorch's allocator are added up (`torch.profiler`, ``profile_memory``); what libraries
    allocate by themselves is not seen. On CUDA it is ``torch.cuda.max_memory_allocated``, less what was there.
    """
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        kept = run()
        torch.cuda.synchronize(device)
        del kept
        return torch.cuda.max_memory_allocated(device) - before + held
    total = most = held
    for change in _changes(run):
        total += change
        most = max(most, total)
    return most


def _changes(run: Callable[[], Any]) -> list[int]:
    """Bytes of every allocation (positive) and release (negative), in order; the result outlives them."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        kept = run()
    del kept
    events = profiler.profiler.kineto_results.events()  # type: ignore[union-attr]
    # Events of one thread come in order, and a stable sort keeps those of one nanosecond so.
    found = sorted(
        ((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"), key=lambda one: one[0]
    )
    return [nbytes for _, nbytes in found]
