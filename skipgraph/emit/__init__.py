"""A rewritten model as a directory that runs without skipgraph.

``model.py`` (torch alone), ``weights.safetensors``, ``plan.json``; on request ``model.onnx`` and ``model.pt2``.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from skipgraph.capture import Captured
from skipgraph.capture.trees import map_tensors, tensors
from skipgraph.emit.directory import check_directory, write_directory
from skipgraph.emit.epilogue import constants
from skipgraph.emit.source import load_source, source
from skipgraph.emit.weights import extra_tables, weights
from skipgraph.errors import VerificationError
from skipgraph.graph import SkipGraph
from skipgraph.passes.workbench import Inputs, drawn

__all__ = ["Emitted", "check_directory", "emitted", "write_directory"]


@dataclass(slots=True)
class Emitted:
    """What is written: files by name, the model that they make, and its graph, priced."""

    files: dict[str, str | bytes]
    model: nn.Module
    graph: SkipGraph = field(repr=False)


def emitted(
    model: Captured, inputs: Inputs, *, title: str, notes: Sequence[str] = (), onnx: bool = False, pt2: bool = False
) -> Emitted:
    """The files of a model that stands alone, checked against it.

    Parameters
    ----------
    model : Captured
        With its weights.
    inputs : tuple
        Example inputs.
    title, notes : str, sequence of str
        For the docstring of ``model.py``: what it is, and what was changed where.
    onnx, pt2 : bool
        Whether ``model.onnx`` and ``model.pt2`` are wanted too.

    Raises
    ------
    EmitError
        If something cannot be written as Python, or exported.
    VerificationError
        If what is written computes anything else.
    """
    text = source(model, inputs, title=title, notes=notes)
    alone = alone_of(text, model, inputs)
    files: dict[str, str | bytes] = {"model.py": text, "weights.safetensors": weights(model)}
    if (tables := extra_tables(model)) is not None:
        files["tables.safetensors"] = tables
    if onnx:
        from skipgraph.emit.onnx import onnx_file

        files["model.onnx"] = onnx_file(alone, inputs)
    if pt2:
        from skipgraph.emit.exported import pt2 as pt2_file

        files["model.pt2"] = pt2_file(alone, inputs)
    return Emitted(files, alone, drawn(alone, inputs))


def alone_of(text: str, model: Captured, inputs: Inputs) -> nn.Module:
    """The module that a source defines, with the weights of ``model``, checked against it.

    Raises
    ------
    VerificationError
        If it computes anything else.
    """
    alone = _loaded(text, model)
    _compare(model, alone, inputs)
    return alone


def _loaded(text: str, model: Captured) -> nn.Module:
    """The model that a source makes, with the weights of ``model``."""
    with torch.random.fork_rng(devices=[]):
        alone: nn.Module = load_source(text)["_structure"]()
    for name, tensor in constants(model):
        owner, _, attribute = name.rpartition(".")
        setattr(alone.get_submodule(owner), attribute, tensor)
    alone.load_state_dict(model.state_dict())
    first = next(model.parameters(), None)
    return alone.to(first.device) if first is not None else alone


def _compare(model: Captured, alone: nn.Module, inputs: Inputs) -> None:
    """Show that the source computes the very same, in both modes."""
    ours = model.copy()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    args, kwargs = map_tensors(_values, inputs)
    for training in (False, True):
        results: list[list[Any]] = []
        for one in (ours, alone):
            one.train(training)
            torch.manual_seed(0)
            try:
                with torch.no_grad():
                    results.append(list(tensors(one(*args, **kwargs))))
            except Exception as error:
                results.append([repr(error)])
        if isinstance(results[0][0] if results[0] else None, str):
            continue  # the model itself does not run so: one sample in front of a norm, say
        same = len(results[0]) == len(results[1]) and all(
            isinstance(b, torch.Tensor) and a.shape == b.shape and torch.equal(a, b)
            for a, b in zip(*results, strict=True)
        )
        if not same:
            mode = "training" if training else "evaluation"
            raise VerificationError(f"the written source computes anything else in {mode}", "Please report it.")
    alone.load_state_dict(state)
    alone.eval()


def _values(tensor: torch.Tensor) -> torch.Tensor:
    """Numbers of the same shape: the example's own, unless it has none."""
    if tensor.device.type != "meta":
        return tensor
    generator = torch.Generator().manual_seed(0)
    if tensor.is_floating_point():
        return torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
    return torch.zeros(tensor.shape, dtype=tensor.dtype)


class _Callable(types.ModuleType):
    """The package, which stands in the place of the function ``skipgraph.emit`` once it is imported."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        return importlib.import_module("skipgraph.delivery").emit(*args, **options)


sys.modules[__name__].__class__ = _Callable
