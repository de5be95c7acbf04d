"""A model and its inputs made ready to be run again and again."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from skipgraph.bench.settings import Settings
from skipgraph.capture.trees import map_tensors, named_tensors, tensors
from skipgraph.errors import ModelError, SkipgraphError, UsageError
from skipgraph.sources.user_code import described

Inputs = tuple[tuple[Any, ...], dict[str, Any]]

_LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}
_QUOTED_LINES = 3
_WARM_UP_RUNS = 3  # before a CUDA graph is captured, as PyTorch's documentation has it


class Workload:
    """One of the two models, as it is measured.

    Parameters
    ----------
    name : str
        For messages.
    model : torch.nn.Module
        It is copied.
    inputs : tuple
        On the device already.
    settings : Settings
    device : torch.device
    """

    def __init__(
        self, name: str, model: torch.nn.Module, inputs: Inputs, settings: Settings, device: torch.device
    ) -> None:
        self.name = name
        self.module = _ready(name, model, settings, device)
        self._training = settings.training
        self._called: Callable[..., Any] = self.module
        self._inputs = inputs
        self._gradients: list[torch.Tensor] = []

    def outputs(self) -> dict[str, torch.Tensor]:
        """All tensors that one run gives, by their places; the first run, which is where a model fails."""
        args, kwargs = self._inputs
        with failing(f"running {self.name}", "Give inputs, a device and a dtype that it runs with."):
            with torch.inference_mode(not self._training):
                results = dict(named_tensors(self._called(*args, **kwargs)))
            self._gradients = [torch.ones_like(tensor) for tensor in results.values() if tensor.requires_grad]
            if self._training and not self._gradients:
                raise UsageError(f"{self.name} has nothing to train: no output has a gradient", "Leave --train out.")
            return {name: tensor.detach() for name, tensor in results.items()}

    def warm_up(self) -> None:
        """Run it once as it will be measured."""
        with failing(f"running {self.name}"):
            self.run()

    def compile(self) -> None:
        """Compile it now, not at the first timed run."""
        with failing(f"compiling {self.name}", "Leave --compile out, or see what torch.compile needs here."):
            self._called = torch.compile(self.module, dynamic=False)
            self.run()

    def run(self) -> Any:
        """One inference, or one forward and backward."""
        args, kwargs = self._inputs
        if not self._training:
            with torch.inference_mode():
                return self._called(*args, **kwargs)
        self.release()
        results = self._called(*args, **kwargs)
        torch.autograd.backward([tensor for tensor in tensors(results) if tensor.requires_grad], self._gradients)
        return results

    def release(self) -> None:
        """Let go of the gradients."""
        for parameter in self.module.parameters():
            parameter.grad = None

    def replayed(self) -> Callable[[], Any]:
        """`run`, captured as a CUDA graph."""
        with failing(f"capturing {self.name} as a CUDA graph", "Leave --cuda-graphs out."):
            beside = torch.cuda.Stream()
            beside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(beside):
                for _ in range(_WARM_UP_RUNS):
                    self.run()
            torch.cuda.current_stream().wait_stream(beside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self.run()
            return graph.replay


def _ready(name: str, model: torch.nn.Module, settings: Settings, device: torch.device) -> torch.nn.Module:
    if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        raise UsageError(f"{name} has no data: its tensors are on the meta device", "Build it on the CPU.")
    fixed = "train" in vars(model)  # an exported program has a method of its own, which refuses
    if fixed and settings.training:
        raise UsageError(f"{name} is an exported program, which stays in its mode", "Leave --train out.")
    with failing(f"copying {name} to {device}"):
        model = copy.deepcopy(model).to(device=device, dtype=settings.torch_dtype())
        for parameter in model.parameters():
            parameter.grad = None
            if settings.channels_last:
                parameter.data = _channels_last(parameter.data)
    return model if fixed else model.train(settings.training)


def placed(inputs: Inputs, settings: Settings, device: torch.device) -> Inputs:
    """The inputs in the dtype, layout and number that are asked for, on the device; what has no data is filled.

    Floating-point tensors without data become normal random numbers, others ones: they may be masks or indices.

    Raises
    ------
    UsageError
        If the layout has no meaning for them.
    """
    dtype = settings.torch_dtype()
    batch = next((tensor.shape[0] for tensor in tensors(inputs) if tensor.ndim), None)
    generator = torch.Generator().manual_seed(0)

    def made(tensor: torch.Tensor) -> torch.Tensor:
        floating = tensor.is_floating_point()
        if tensor.is_meta and floating:
            tensor = torch.randn(tensor.shape, generator=generator).to(tensor.dtype)
        elif tensor.is_meta:
            tensor = torch.ones(tensor.shape, dtype=tensor.dtype)
        tensor = tensor.detach()
        if settings.batch is not None and tensor.ndim and tensor.shape[0] == batch:
            tensor = tensor.index_select(0, torch.arange(settings.batch, device=tensor.device) % batch)
        tensor = tensor.to(device=device, dtype=dtype if floating else None)
        return _channels_last(tensor) if settings.channels_last else tensor

    result: Inputs = map_tensors(made, inputs)
    if settings.channels_last and not any(tensor.ndim in _LAYOUTS for tensor in tensors(result)):
        raise UsageError("channels-last has no meaning: no input has four or five axes", "Leave --channels-last out.")
    return result


def _channels_last(tensor: torch.Tensor) -> torch.Tensor:
    layout = _LAYOUTS.get(tensor.ndim)
    return tensor if layout is None else tensor.contiguous(memory_format=layout)


@contextmanager
def failing(what: str, remedy: str = "") -> Iterator[None]:
    """Turn what a model or a compiler raises into a `ModelError` that quotes the first lines of its words."""
    try:
        yield
    except SkipgraphError:
        raise
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise ModelError(f"{what} needs more memory than there is", "Give a smaller batch or dtype.") from error
    except Exception as error:
        lines = [line for line in described(error).splitlines() if line.strip()]
        words = "\n  ".join([*lines[:_QUOTED_LINES], *(["…"] if len(lines) > _QUOTED_LINES else [])])
        raise ModelError(f"{what} failed: {words}", remedy) from error
