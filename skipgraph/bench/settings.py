"""How two models are run, refused where it has no meaning."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from skipgraph.errors import UsageError
from skipgraph.sources.inputs import parse_dtype

_OTHER_NAMES = {"fp16": "f16", "fp32": "f32", "fp64": "f64"}


@dataclass(frozen=True, slots=True)
class Settings:
    """How two models are run.

    Attributes
    ----------
    device : str
        ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.
    dtype : str or None
        Of parameters and floating-point inputs: a name of PyTorch, a short one such as ``bf16``, or ``tf32``, which is
        float32 whose products a CUDA device may round. None leaves every tensor its own.
    channels_last : bool
        The memory layout of images and volumes, and of the kernels of convolutions.
    compile : bool
        By `torch.compile`.
    cuda_graphs : bool
        Captured once and replayed.
    batch : int or None
        Samples of the inputs; None leaves them as they are.
    training : bool
        Forward and backward in place of inference.
    threads : int
        Of the CPU.
    min_seconds : float
        To measure in all.
    """

    device: str = "cpu"
    dtype: str | None = None
    channels_last: bool = False
    compile: bool = False
    cuda_graphs: bool = False
    batch: int | None = None
    training: bool = False
    threads: int = 1
    min_seconds: float = 2.0

    @property
    def tf32(self) -> bool:
        """Whether products of float32 may be rounded."""
        return self.dtype == "tf32"

    def torch_dtype(self) -> torch.dtype | None:
        """The dtype to convert to.

        Raises
        ------
        UsageError
            If there is none of that name, or it is none that a network computes with.
        """
        if self.dtype is None:
            return None
        if self.tf32:
            return torch.float32
        dtype = parse_dtype(_OTHER_NAMES.get(self.dtype, self.dtype))
        if not dtype.is_floating_point:
            raise UsageError(f"no network computes in {self.dtype}", "Give bf16, fp16, f32, f64 or tf32.")
        return dtype

    def check(self) -> torch.device:
        """The device, if all of this can be measured on it.

        Raises
        ------
        UsageError
            If not.
        """
        for name, number in (("batch", self.batch), ("threads", self.threads)):
            if number is not None and number < 1:
                raise UsageError(f"{name} is {number}", "Give 1 or more.")
        if not 0 < self.min_seconds < float("inf"):
            raise UsageError(f"{self.min_seconds} seconds cannot be measured", "Give a positive number.")
        device = _device(self.device)
        self.torch_dtype()
        if device.type == "cpu" and self.tf32:
            raise UsageError("TF32 is a precision of CUDA devices", "Give --dtype f32, or --device cuda.")
        if device.type == "cpu" and self.cuda_graphs:
            raise UsageError("a CPU has no CUDA graphs", "Leave --cuda-graphs out, or give --device cuda.")
        if self.cuda_graphs and self.training:
            raise UsageError("CUDA graphs are measured for inference only", "Leave --cuda-graphs or --train out.")
        return device


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"unknown device {name!r}", "Use cpu or cuda.") from None
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"nothing can be timed on {name}", "Use cpu or cuda.")
    if device.type == "cpu":
        return torch.device("cpu")
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not found:
        why = "this PyTorch is built without CUDA" if torch.version.cuda is None else "PyTorch finds no CUDA device"
        raise UsageError(f"{name} cannot be used: {why}", "Give --device cpu, or run it where nvidia-smi shows one.")
    if (device.index or 0) >= found:
        raise UsageError(f"there is no {name}", f"The last one here is cuda:{found - 1}.")
    return torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)


@contextmanager
def in_force(settings: Settings, device: torch.device) -> Iterator[None]:
    """PyTorch's own switches as ``settings`` ask for, and afterwards as they were."""
    threads = torch.get_num_threads()
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    try:
        torch.set_num_threads(settings.threads)
        if device.type == "cpu":
            yield
            return
        rounded = matmul.allow_tf32, cudnn.allow_tf32
        try:
            matmul.allow_tf32 = cudnn.allow_tf32 = settings.tf32
            with torch.cuda.device(device):
                yield
        finally:
            matmul.allow_tf32, cudnn.allow_tf32 = rounded
    finally:
        torch.set_num_threads(threads)


def device_name(device: torch.device) -> str:
    """What its maker calls it."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
