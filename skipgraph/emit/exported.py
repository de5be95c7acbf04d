"""``model.pt2``: the emitted model as torch.export writes it."""

from __future__ import annotations

import io
import logging
import warnings
from typing import Any

import torch
from torch import nn

from skipgraph.capture.trees import tensors
from skipgraph.errors import EmitError

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
            shapes = dynamic_batch(inputs)
            return torch.export.export(model, args, kwargs, dynamic_shapes=shapes, strict=False)
        except Exception:
            try:
                return torch.export.export(model, args, kwargs, strict=False)
            except Exception as error:
                words = str(error).strip().splitlines() or [type(error).__name__]
                raise EmitError(f"torch.export cannot export the model: {words[0]}", "Leave out --pt2.") from error


def dynamic_batch(inputs: Inputs) -> tuple[Any, ...] | dict[str, Any] | None:
    """The first axis of every input as one dynamic size, in the form that torch.export takes; needs two samples."""
    args, kwargs = inputs
    if any(tensor.dim() == 0 or tensor.shape[0] < 2 for tensor in tensors(inputs)):
        return None
    batch = torch.export.Dim("batch", min=1)
    found = [{0: batch} if isinstance(one, torch.Tensor) else None for one in args]
    named = {name: {0: batch} if isinstance(one, torch.Tensor) else None for name, one in kwargs.items()}
    if not named:
        return tuple(found)
    return named if not found else None


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
