"""The meter against sums by hand."""

from __future__ import annotations

import itertools

import torch
from torch import nn

from skipgraph.bench import bench
from skipgraph.bench.memory import peak_bytes

CPU = torch.device("cpu")
BATCH, BYTES = 16, 4


def chain(*widths: int) -> nn.Sequential:
    return nn.Sequential(*(nn.Linear(a, b, bias=False) for a, b in itertools.pairwise(widths)))


def measured(*widths: int, **options: object) -> int:
    model = chain(*widths)
    return bench(model, model, torch.randn(BATCH, widths[0]), min_seconds=0.005, threads=1, **options).a.peak_bytes


def test_chain() -> None:
    # The input stays; beside it the operand and the result of one layer at a time.
    assert measured(32, 64, 256, 128, 8) == BATCH * BYTES * (32 + 256 + 128)


def test_batch_and_dtype() -> None:
    assert measured(32, 64, 48, batch=3) == 3 * BYTES * (32 + 64 + 48)
    assert measured(32, 64, 48, dtype="f64") == 2 * BATCH * BYTES * (32 + 64 + 48)


def test_training_keeps_activations_and_makes_gradients() -> None:
    widths = (32, 64, 256, 128)
    activations = BATCH * BYTES * sum(widths)
    weights = BYTES * (32 * 64 + 64 * 256 + 256 * 128)
    peak = measured(*widths, training=True)
    assert BATCH * BYTES * (32 + 128) + weights <= peak <= 2 * activations + weights  # input and output stay


def test_what_is_released_is_subtracted() -> None:
    def run() -> torch.Tensor:
        for _ in range(3):
            torch.empty(1000)
        return torch.empty(10)

    run()
    assert peak_bytes(run, CPU) == 4000
    assert peak_bytes(run, CPU, held=5) == 4005
