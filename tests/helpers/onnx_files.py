"""ONNX files of small models, written by PyTorch's exporters."""

from __future__ import annotations

import contextlib
import io
import warnings
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn


def exported(model: nn.Module, inputs: tuple[Any, ...], path: Path, *, dynamo: bool, **options: Any) -> Path:
    """``model.onnx`` of a model in evaluation, by the exporter of graphs (``dynamo``) or by that of TorchScript."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")
        if dynamo:
            options = {"external_data": False, "verbose": False, **options}
        torch.onnx.export(model.eval(), inputs, str(path), dynamo=dynamo, **options)
    return path
