"""Times of two models that take turns in one process."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.benchmark import Timer, timer

from skipgraph.collection import no_collection

Run = Callable[[], Any]
Clock = Callable[[Run, int], float]

LEAST_ROUNDS, MOST_ROUNDS = 6, 128  # six is the least that gives an interval of 95 %
_USUAL_ROUNDS = 64
_LEAST_BLOCK_SECONDS = 1e-3  # beside which starting a clock is nothing
_SETTLED = 0.95  # times that fall by less than 5 % from one measurement to the next
_MOST_MEASUREMENTS = 10


@dataclass(slots=True)
class Turns:
    """Times in seconds a run.

    Attributes
    ----------
    blocks : tuple of two lists
        Of A and of B, one a block.
    rounds : list of tuple
        ``(a, b)``, each the mean of two blocks: A B B A, so that what drifts steadily meets both alike.
    runs : tuple of two int
        How often each was run and timed.
    """

    blocks: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))
    rounds: list[tuple[float, float]] = field(default_factory=list)
    runs: tuple[int, int] = (0, 0)


def take_turns(a: Run, b: Run, device: torch.device, min_seconds: float) -> Turns:
    """Time ``a`` and ``b``, each warm, in alternating blocks.

    Parameters
    ----------
    a, b : callable
    device : torch.device
        Where they run: its clock is taken.
    min_seconds : float
        How long to measure in all, warm-up apart; six rounds are measured however long they take.
    """
    clock = cuda_seconds if device.type == "cuda" else cpu_seconds
    block = max(_LEAST_BLOCK_SECONDS, min_seconds / (4 * _USUAL_ROUNDS))
    models = [(run, max(1, round(block / settled(run, block)))) for run in (a, b)]
    turns = Turns()
    started = time.perf_counter()
    while len(turns.rounds) < LEAST_ROUNDS or (
        time.perf_counter() - started < min_seconds and len(turns.rounds) < MOST_ROUNDS
    ):
        first = len(turns.rounds) % 2  # who begins has no advantage
        for which in (first, 1 - first, 1 - first, first):
            turns.blocks[which].append(_block(*models[which], clock))
        turns.rounds.append((sum(turns.blocks[0][-2:]) / 2, sum(turns.blocks[1][-2:]) / 2))
    turns.runs = (2 * len(turns.rounds) * models[0][1], 2 * len(turns.rounds) * models[1][1])
    return turns


def settled(run: Run, min_seconds: float) -> float:
    """Seconds a run, after as many runs as it takes until they fall no more."""
    watch = Timer("run()", globals={"run": run}, num_threads=torch.get_num_threads())
    last = watch.blocked_autorange(min_run_time=min_seconds).median
    for _ in range(_MOST_MEASUREMENTS):
        seconds = watch.blocked_autorange(min_run_time=min_seconds).median
        if seconds > _SETTLED * last:
            return seconds
        last = seconds
    return last


def _block(run: Run, number: int, clock: Clock) -> float:
    """Seconds a run. Where a block is of many runs, one more before them finds the caches full of the other model."""
    if number > 1:
        run()
    return clock(run, number)


def cpu_seconds(run: Run, number: int) -> float:
    """Wall-clock seconds a run."""
    with no_collection():
        started = timer()
        for _ in range(number):
            run()
        return (timer() - started) / number


def cuda_seconds(run: Run, number: int) -> float:
    """Seconds a run between two events of the current stream."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    with no_collection():
        start.record()
        for _ in range(number):
            run()
        end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / 1000 / number
