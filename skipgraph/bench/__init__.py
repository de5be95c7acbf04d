"""Two models timed side by side, in one process, on the same inputs; and the memory that each takes."""

from __future__ import annotations

import contextlib
import copy
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.utils.benchmark import Timer

from skipgraph.bench.memory import peak_bytes
from skipgraph.bench.statistics import Ratio, ratio, spread
from skipgraph.capture.trees import map_tensors, tensors
from skipgraph.errors import ModelError, UsageError
from skipgraph.sources.inputs import as_example

__all__ = ["Bench", "Ratio", "Timing", "bench"]

SCHEMA = "skipgraph.bench/1"
_DTYPES = {
    "f32": torch.float32, "float32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16,
    "bfloat16": torch.bfloat16, "f16": torch.float16, "fp16": torch.float16, "float16": torch.float16,
    "float64": torch.float64,
}  # fmt: skip
_WARM_UP = 3  # runs that are not counted
_PAIRS = (9, 101)  # of blocks: at least, at most


@dataclass(frozen=True, slots=True)
class Timing:
    """One model: seconds a run, and bytes.

    Attributes
    ----------
    median, first_quartile, third_quartile : float
        Seconds of one run, over blocks of runs.
    blocks : int
        How many blocks were timed.
    peak_bytes : int
        Most activations held at once, as the allocator saw it, inputs included.
    parameter_bytes : int
    """

    median: float
    first_quartile: float
    third_quartile: float
    blocks: int
    peak_bytes: int
    parameter_bytes: int


@dataclass(frozen=True, slots=True)
class Bench:
    """Two models side by side.

    Attributes
    ----------
    device : str
        Name of the processor, with the number of threads if it is a CPU.
    torch : str
        Version.
    settings : dict
        What was asked for.
    a, b : Timing
    ratio : Ratio
        B's time over A's.
    """

    device: str
    torch: str
    settings: dict[str, Any]
    a: Timing
    b: Timing
    ratio: Ratio

    def as_json(self) -> dict[str, Any]:
        """Plain data, of schema ``skipgraph.bench/1``."""
        return {"schema": SCHEMA, **asdict(self), "noise": self.ratio.is_noise, "verdict": str(self.ratio)}


def bench(
    a: nn.Module,
    b: nn.Module,
    example_inputs: Any,
    *,
    device: str = "cpu",
    dtype: str | None = None,
    channels_last: bool = False,
    compile: bool = False,
    cuda_graphs: bool = False,
    batch: int | None = None,
    train: bool = False,
    seconds: float = 2.0,
) -> Bench:
    """Time two models on the same inputs.

    Blocks of runs of A and B alternate, so that what else the machine does meets both; ratios are taken within pairs.

    Parameters
    ----------
    a, b : torch.nn.Module
        They are copied, not changed.
    example_inputs : tuple, list, dict or tensor
    device : str
        ``"cpu"``, or ``"cuda"``, timed by its events.
    dtype : str, optional
        ``"f32"``, ``"tf32"`` (CUDA), ``"bf16"``, ``"fp16"``; the model's own if not given.
    channels_last : bool
        Weights and images in that memory format.
    compile : bool
        Both through `torch.compile`.
    cuda_graphs : bool
        Both captured in a CUDA graph.
    batch : int, optional
        Samples; those of the example if not given.
    train : bool
        A forward and a backward pass in training mode, not a forward in evaluation.
    seconds : float
        Time to spend on measuring.

    Returns
    -------
    Bench

    Raises
    ------
    UsageError
        If the machine, or the combination, does not have it.
    ModelError
        If a model cannot be run or compiled; its own words are quoted.
    """
    place = _device(device, cuda_graphs=cuda_graphs, dtype=dtype)
    if cuda_graphs and train:
        raise UsageError("a CUDA graph of a training step is not taken", "Give --cuda-graphs or --train.")
    kind = _dtype(dtype)
    with _precision(dtype):
        inputs = _prepared(as_example(example_inputs), place, kind, batch, channels_last=channels_last)
        runs = []
        for model in (a, b):
            one = _moved(model, place, kind, channels_last=channels_last, train=train)
            held = sum(tensor.numel() * tensor.element_size() for tensor in tensors(inputs))
            run = _runner(one, inputs, train=train, compile=compile)
            peak = _told(partial(peak_bytes, run, place, held=held))
            runs.append((_graphed(run) if cuda_graphs else run, peak, _parameter_bytes(one)))
        first, second = _interleaved(runs[0][0], runs[1][0], place, seconds)
    settings = {
        "dtype": dtype or "own", "channels_last": channels_last, "compile": compile, "cuda_graphs": cuda_graphs,
        "train": train, "shapes": [list(tensor.shape) for tensor in tensors(inputs)],
    }  # fmt: skip
    timings = [
        Timing(median(times), *spread(times), len(times), peak, parameters)
        for times, (_, peak, parameters) in zip((first, second), runs, strict=True)
    ]
    return Bench(name_of(place), torch.__version__, settings, *timings, ratio(first, second))


def _device(device: str, *, cuda_graphs: bool, dtype: str | None) -> torch.device:
    try:
        place = torch.device(device)
    except RuntimeError:
        raise UsageError(f"unknown device {device!r}", "Use cpu or cuda.") from None
    if place.type not in ("cpu", "cuda"):
        raise UsageError(f"nothing is timed on {place.type}", "Use cpu or cuda.")
    if place.type == "cuda" and not torch.cuda.is_available():
        raise UsageError("this machine has no CUDA device, or torch was built without", "Give --device cpu.")
    if place.type == "cpu" and cuda_graphs:
        raise UsageError("a CPU has no CUDA graphs", "Leave out --cuda-graphs, or give --device cuda.")
    if place.type == "cpu" and dtype == "tf32":
        raise UsageError("a CPU has no TF32", "Give --dtype f32, or --device cuda.")
    return place


def _dtype(name: str | None) -> torch.dtype | None:
    if name is None:
        return None
    if name not in _DTYPES:
        raise UsageError(f"unknown dtype {name!r}", f"Use one of: {', '.join(_DTYPES)}.")
    return _DTYPES[name]


@contextlib.contextmanager
def _precision(dtype: str | None) -> Iterator[None]:
    """TF32 only where it was asked for."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = dtype == "tf32"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def _prepared(
    inputs: Any, place: torch.device, dtype: torch.dtype | None, batch: int | None, *, channels_last: bool
) -> Any:
    generator = torch.Generator().manual_seed(0)

    def prepared(tensor: torch.Tensor) -> torch.Tensor:
        shape = (batch, *tensor.shape[1:]) if batch is not None and tensor.dim() else tuple(tensor.shape)
        if tensor.is_floating_point():
            made = torch.randn(shape, generator=generator).to(place, dtype or tensor.dtype)
        elif tensor.device.type == "meta" or shape != tuple(tensor.shape):
            made = torch.zeros(shape, dtype=tensor.dtype, device=place)
        else:
            made = tensor.to(place)
        return made.to(memory_format=torch.channels_last) if channels_last and made.dim() == 4 else made

    return map_tensors(prepared, inputs)


def _moved(
    model: nn.Module, place: torch.device, dtype: torch.dtype | None, *, channels_last: bool, train: bool
) -> nn.Module:
    one = copy.deepcopy(model).to(place)
    if dtype is not None:
        one = one.to(dtype)
    if channels_last:
        one = one.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return one.train(train)


def _runner(model: nn.Module, inputs: Any, *, train: bool, compile: bool) -> Callable[[], Any]:
    args, kwargs = inputs
    called: Callable[..., Any] = torch.compile(model) if compile else model

    def infer() -> Any:
        with torch.inference_mode():
            return called(*args, **kwargs)

    def step() -> Any:
        model.zero_grad(set_to_none=True)
        loss = sum(one.float().square().mean() for one in tensors(called(*args, **kwargs)) if one.is_floating_point())
        loss.backward()  # type: ignore[union-attr]
        return loss

    return step if train else infer


def _told(run: Callable[[], int]) -> int:
    """Run a model for the first time; what it says of a failure is quoted."""
    try:
        return run()
    except Exception as error:
        words = (str(error).strip().splitlines() or [""])[0]
        raise ModelError(
            f"the model cannot be run so: {type(error).__name__}: {words}", "Try other options."
        ) from error


def _graphed(run: Callable[[], Any]) -> Callable[[], Any]:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UP):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def _interleaved(
    a: Callable[[], Any], b: Callable[[], Any], place: torch.device, seconds: float
) -> tuple[list[float], list[float]]:
    """Seconds of one run, block by block; A and B take turns, and take turns at being first."""
    timed = _cuda_block if place.type == "cuda" else _cpu_block
    for run in (a, b):
        for _ in range(_WARM_UP):
            run()
    single = max(timed(run, 1) for run in (a, b))
    pairs = max(_PAIRS[0], min(_PAIRS[1], int(seconds / max(2 * single, 1e-9))))
    count = max(1, int(seconds / (2 * single * pairs)))
    times: tuple[list[float], list[float]] = ([], [])
    for pair in range(pairs):
        order = ((0, a), (1, b)) if pair % 2 == 0 else ((1, b), (0, a))
        for which, run in order:
            times[which].append(timed(run, count))
    return times


def _cpu_block(run: Callable[[], Any], count: int) -> float:
    return float(Timer("run()", globals={"run": run}, num_threads=torch.get_num_threads()).timeit(count).mean)


def _cuda_block(run: Callable[[], Any], count: int) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(count):
        run()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / 1e3 / count


def _parameter_bytes(model: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in model.parameters())


def name_of(place: torch.device) -> str:
    """What a device is called."""
    if place.type == "cuda":
        return torch.cuda.get_device_name(place)
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.is_file() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return f"{model or platform.machine()}, {torch.get_num_threads()} threads"
