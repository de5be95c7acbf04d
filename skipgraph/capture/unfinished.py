"""A forward that ends in a part which reads values: as far as that part, which is one opaque leaf."""

from __future__ import annotations

import inspect
from types import FrameType
from typing import Any

import torch

from skipgraph.capture.substitution import walk
from skipgraph.capture.trees import tensors

_NOT_THE_USERS = ("torch.", "skipgraph.")  # modules whose functions a forward only calls to compute


def part_that_failed(model: torch.nn.Module, error: BaseException) -> tuple[str, list[torch.Tensor]] | None:
    """The function that the model's forward had called when it raised, and the tensors that it was given.

    If the forward itself raised: its name, and all tensors that it holds. None if the forward is not to be seen.
    """
    frames: list[FrameType] = []
    trace = error.__traceback__
    while trace is not None:
        frames.append(trace.tb_frame)
        trace = trace.tb_next
    code = getattr(inspect.unwrap(model.forward), "__code__", None)
    place = next((place for place, frame in enumerate(frames) if frame.f_code is code), None)
    if place is None:
        return None
    below = frames[place + 1] if place + 1 < len(frames) else None
    if below is None or str(below.f_globals.get("__name__", "")).startswith(_NOT_THE_USERS):
        return "forward", list(tensors(_given(frames[place], everything=True)))
    return below.f_code.co_name, list(tensors(_given(below, everything=False)))


def _given(frame: FrameType, *, everything: bool) -> list[Any]:
    """The arguments of a frame, or all that it has."""
    code = frame.f_code
    names = code.co_varnames if everything else code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    return [frame.f_locals[name] for name in names if name in frame.f_locals]


def most_layers_ran(model: torch.nn.Module, called: set[torch.nn.Module]) -> bool:
    """Whether most of the modules that have parameters of their own are among those ``called``."""
    layers = [module for module in walk(model).values() if module._parameters]
    return bool(layers) and 2 * sum(module in called for module in layers) > len(layers)
