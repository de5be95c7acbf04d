"""``model.pt2``: the emitted model as torch.export writes it."""

from __future__ import annotations

import inspect
import io
import logging
import warnings
from typing import Any

import torch
from torch import nn

from skipgraph.capture.trees import map_tensors
from skipgraph.errors import EmitError, first_line

Inputs = tuple[tuple[Any, ...], dict[str, Any]]


def pt2(model: nn.Module, inputs: Inputs) -> bytes:
    """The content of ``model.pt2``, in evaluation, for any batch where the model allows it.

    Raises
    ------
    EmitError
        If torch.export cannot do it; its own words are quoted.
    """
    buffer = io.BytesIO()
    with quiet():
        torch.export.save(exported(model, inputs), buffer)
    return buffer.getvalue()


def exported(model: nn.Module, inputs: Inputs) -> torch.export.ExportedProgram:
    """The program of a model in evaluation, its batch dynamic where that works."""
    args, kwargs = inputs
    model.eval()
    with quiet():
        try:
            two = map_tensors(doubled, inputs)
            return torch.export.export(model, *two, dynamic_shapes=dynamic_batch(model, inputs), strict=False)
        except Exception:
            try:
                return torch.export.export(model, args, kwargs, strict=False)
            except Exception as error:
                words = first_line(error)
                raise EmitError(f"torch.export cannot export the model: {words}", "Leave out --pt2.") from error


def dynamic_batch(model: nn.Module, inputs: Inputs) -> dict[str, Any]:
    """The first axis of every input as one dynamic size, in the form that torch's exporters take."""
    args, kwargs = inputs
    batch = torch.export.Dim("batch", min=1)

    def shape(one: Any) -> Any:
        if isinstance(one, torch.Tensor):
            return {0: batch} if one.dim() else {}
        if isinstance(one, (list, tuple)):
            return [shape(each) for each in one]
        return {key: shape(each) for key, each in one.items()} if isinstance(one, dict) else None

    positional = zip(inspect.signature(model.forward).parameters, args, strict=False)
    return {name: shape(one) for name, one in [*positional, *kwargs.items()]}


def doubled(tensor: torch.Tensor) -> torch.Tensor:
    """Two samples for one: an exporter takes a batch of one for a constant."""
    return torch.cat([tensor, tensor]) if tensor.dim() and tensor.shape[0] == 1 else tensor


class quiet:  # noqa: N801
    """A block in which foreign code says nothing."""

    def __enter__(self) -> None:
        self._caught = warnings.catch_warnings()
        self._caught.__enter__()
        warnings.simplefilter("ignore")
        self._threshold = logging.root.manager.disable
        logging.disable(logging.CRITICAL)

    def __exit__(self, *error: object) -> None:
        logging.disable(self._threshold)
        self._caught.__exit__(None, None, None)
