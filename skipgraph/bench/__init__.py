"""Two models side by side: time, and the memory that a run needs.

The package is also the function: ``skipgraph.bench(a, b, inputs)`` works whether or not it was imported before.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any

import torch

from skipgraph.bench.memory import peak_bytes
from skipgraph.bench.result import Bench, Measured
from skipgraph.bench.settings import Settings, device_name, in_force
from skipgraph.bench.statistics import Ratio, quartiles, ratio_of
from skipgraph.bench.table import table
from skipgraph.bench.timing import take_turns
from skipgraph.bench.workload import Inputs, Workload, failing, placed
from skipgraph.capture.trees import named_tensors, tensors
from skipgraph.errors import UsageError
from skipgraph.sources.inputs import as_example

__all__ = ["Bench", "Measured", "Ratio", "Settings", "bench", "table"]


def bench(
    a: torch.nn.Module,
    b: torch.nn.Module,
    example_inputs: Any,
    *,
    device: str = "cpu",
    dtype: str | torch.dtype | None = None,
    channels_last: bool = False,
    compile: bool = False,
    cuda_graphs: bool = False,
    batch: int | None = None,
    training: bool = False,
    threads: int | None = None,
    min_seconds: float = 2.0,
    names: tuple[str, str] = ("A", "B"),
    progress: Callable[[str], None] | None = None,
) -> Bench:
    """Time two models in turns on the same inputs, and measure the memory that each needs.

    Parameters
    ----------
    a, b : torch.nn.Module
        They are copied, and not changed.
    example_inputs : tuple, list, dict or tensor
        Positional inputs, keyword inputs, or the only input. Tensors on the meta device are filled.
    device, dtype, channels_last, compile, cuda_graphs, batch, training, threads, min_seconds
        See `Settings`; ``threads`` is what PyTorch has now if it is not given.
    names : tuple of str
        What to call the models in messages and results.
    progress : callable, optional
        Told of what is being done.

    Returns
    -------
    Bench

    Raises
    ------
    UsageError
        If this cannot be measured: no such device, a setting without meaning there, outputs of unlike structure.
    ModelError
        If a model raises, or cannot be compiled.

    Examples
    --------
    >>> import skipgraph, torch
    >>> small, large = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)
    >>> result = skipgraph.bench(small, large, torch.randn(4, 8), min_seconds=0.01)
    >>> result.a.peak_bytes, result.a.parameter_bytes  # 4 · 8 numbers in and out; 8 · 8 weights and 8 biases
    (256, 288)
    """
    settings = Settings(
        device=device,
        dtype=str(dtype).removeprefix("torch.") if dtype is not None else None,
        channels_last=channels_last,
        compile=compile,
        cuda_graphs=cuda_graphs,
        batch=batch,
        training=training,
        threads=threads if threads is not None else torch.get_num_threads(),
        min_seconds=min_seconds,
    )
    where = settings.check()
    with in_force(settings, where):
        inputs = placed(as_example(example_inputs), settings, where)
        pair = [Workload(name, model, inputs, settings, where) for name, model in zip(names, (a, b), strict=True)]
        return _compared(pair, inputs, settings, where, progress or _ignore)


def _compared(
    pair: list[Workload], inputs: Inputs, settings: Settings, device: torch.device, tell: Callable[[str], None]
) -> Bench:
    tell("first runs")
    outputs = [workload.outputs() for workload in pair]
    _check_structure(*outputs)
    difference = None if settings.training else _difference(*outputs)
    del outputs
    if settings.compile:
        torch.compiler.reset()  # what was compiled before counts against a limit, beyond which nothing is compiled
    peaks = []
    for workload in pair:
        if settings.compile:
            tell(f"compiling {workload.name}")
            workload.compile()
        peaks.append(_peak(workload, inputs, device))
    first, second = (workload.replayed() if settings.cuda_graphs else workload.run for workload in pair)
    tell("timing")
    with failing("a later run"):
        turns = take_turns(first, second, device, settings.min_seconds)
    measured = [
        _measured(workload, blocks, number, peak)
        for workload, blocks, number, peak in zip(pair, turns.blocks, turns.runs, peaks, strict=True)
    ]
    described = [
        {"name": name, "shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}
        for name, tensor in [*named_tensors(inputs[0]), *named_tensors(inputs[1])]
    ]
    return Bench(
        device=device_name(device),
        torch_version=str(torch.__version__),
        settings=settings,
        inputs=described,
        a=measured[0],
        b=measured[1],
        ratio=ratio_of(turns.rounds),
        rounds=len(turns.rounds),
        output_difference=difference,
    )


def _peak(workload: Workload, inputs: Inputs, device: torch.device) -> int:
    held = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors(inputs)}
    workload.warm_up()
    workload.release()
    with failing(f"measuring the memory of {workload.name}"):
        return peak_bytes(workload.run, device, sum(held.values()))


def _measured(workload: Workload, blocks: list[float], runs: int, peak: int) -> Measured:
    first, middle, third = quartiles(blocks)
    parameters = sum(tensor.nbytes for tensor in workload.module.parameters())
    buffers = sum(tensor.nbytes for tensor in workload.module.buffers())
    return Measured(workload.name, middle, (first, third), runs, peak, parameters, buffers)


def _check_structure(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    for name in dict.fromkeys([*a, *b]):
        shapes = [tuple(outputs[name].shape) if name in outputs else None for outputs in (a, b)]
        if shapes[0] != shapes[1]:
            said = ["missing" if shape is None else "×".join(map(str, shape)) or "a scalar" for shape in shapes]
            raise UsageError(
                f"the outputs differ in structure: {f'output {name}' if name else 'the output'} is {said[0]} in A and "
                f"{said[1]} in B",
                "Compare models that give the same outputs for the same inputs.",
            )


def _difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float | None:
    """The largest of all outputs, relative to each; None if a number is not finite."""
    worst = 0.0
    for name, tensor in a.items():
        mine, other = tensor.double(), b[name].double()
        if not bool(mine.isfinite().all() and other.isfinite().all()):
            return None
        if mine.numel():
            worst = max(worst, (mine - other).abs().max().item() / (mine.abs().max().item() or 1.0))
    return worst


def _ignore(text: str) -> None:
    """Nobody is told."""


class _Callable(types.ModuleType):
    """The package, which stands in the place of the function ``skipgraph.bench`` once it is imported."""

    def __call__(self, *args: Any, **options: Any) -> Bench:
        return bench(*args, **options)


sys.modules[__name__].__class__ = _Callable
