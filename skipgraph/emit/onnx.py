"""``model.onnx``, by torch's exporter, checked in onnxruntime against the model."""

from __future__ import annotations

import contextlib
import io
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from skipgraph.capture.trees import map_tensors, named_tensors, tensors
from skipgraph.emit.exported import doubled, dynamic_batch, quiet
from skipgraph.errors import EmitError, MissingDependencyError, VerificationError, first_line

Inputs = tuple[tuple[Any, ...], dict[str, Any]]
_TOLERANCE = 1e-4  # relative, float32: another runtime sums in another order, and folds norms into convolutions


def onnx_file(model: nn.Module, inputs: Inputs) -> bytes:
    """The content of ``model.onnx``, in evaluation, for any batch where the model allows it.

    Raises
    ------
    MissingDependencyError
        If onnx, onnxscript or onnxruntime is not installed.
    EmitError
        If the model cannot be exported; the exporter's own words are quoted.
    VerificationError
        If onnxruntime computes anything else than the model.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(f"{error.name} is not installed", "pip install 'skipgraph[onnx]'") from None
    model = model.eval()
    content = _exported(model, inputs)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    _compare(session, model, inputs)
    return content


def _exported(model: nn.Module, inputs: Inputs) -> bytes:
    attempts: list[tuple[Any, Any, Any]] = [
        (*map_tensors(doubled, inputs), dynamic_batch(model, inputs)),
        (*inputs, None),
    ]
    words = ""
    for given, by_name, dims in attempts:
        with tempfile.TemporaryDirectory() as folder, quiet(), contextlib.redirect_stdout(io.StringIO()):
            path = Path(folder) / "model.onnx"
            try:
                torch.onnx.export(
                    model, given, str(path), kwargs=by_name, dynamo=True, dynamic_shapes=dims, external_data=False,
                    verbose=False, verify=False,
                )  # fmt: skip
                return path.read_bytes()
            except Exception as error:
                words = first_line(error)
    raise EmitError(f"torch.onnx cannot export the model: {words}", "Leave out --onnx.")


def _compare(session: Any, model: nn.Module, inputs: Inputs) -> None:
    args, kwargs = inputs
    with torch.no_grad():
        wanted = list(tensors(model(*args, **kwargs)))
    values = [tensor.numpy() for _, tensor in named_tensors({str(n): one for n, one in enumerate(args)} | kwargs)]
    names = [one.name for one in session.get_inputs()]
    given = session.run(None, dict(zip(names, values, strict=False)))
    for mine, theirs in zip(given, wanted, strict=True):
        other = torch.as_tensor(mine)
        error = (other - theirs).abs().max().item() if theirs.numel() else 0.0
        if not error <= _TOLERANCE * max(theirs.abs().max().item(), 1e-6):
            raise VerificationError(
                f"onnxruntime's output is off by {error:.3g}, where the model's largest is {theirs.abs().max():.3g}",
                "Please report it; leave out --onnx meanwhile.",
            )
