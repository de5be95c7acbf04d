"""``model.onnx`` of a rewritten ONNX file, checked in onnxruntime against the original file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from skipgraph.capture.onnx import OnnxModel, graph_inputs, load_file, read_model
from skipgraph.capture.opaque import Opaque
from skipgraph.emit.onnx_graph import onnx_graph
from skipgraph.errors import EmitError, MissingDependencyError, VerificationError, first_line

if TYPE_CHECKING:
    import onnx_ir as ir

FILE, DATA = "model.onnx", "model.onnx.data"
_LARGEST = 1_900_000_000  # bytes of weights in one file: protocol buffers end at 2 GiB
# Relative, by dtype: another runtime sums in another order, and folds norms into convolutions.
_TOLERANCES = {"float64": 1e-8, "float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}


def write_again(
    original: OnnxModel, model: OnnxModel, inputs: tuple[torch.Tensor, ...], folder: Path, *, exact: bool
) -> OnnxModel:
    """Write the file of a rewritten model, with a file of its data beside it where the original has one or has to.

    Parameters
    ----------
    original, model : OnnxModel
        Before and after, with data.
    inputs : tuple of torch.Tensor
        Example inputs.
    folder : Path
        An empty directory.
    exact : bool
        Whether onnxruntime must compute what it does with the original file; otherwise it is held against ``model``.

    Returns
    -------
    OnnxModel
        What was written, read again, without data.

    Raises
    ------
    EmitError
        If something cannot be written, or onnxruntime does not take it.
    VerificationError
        If onnxruntime computes anything else.
    MissingDependencyError
        If onnxruntime is not installed.
    """
    file = onnx_graph(original, model, inputs)
    path = folder / FILE
    _save(file, path, beside=_has_external_data(original.file))
    _check(original, model, inputs, path, exact=exact)
    read = {value.name: one for value, one in zip(graph_inputs(file), inputs, strict=True)}
    return read_model(load_file(path), read, data=False, path=path)  # type: ignore[arg-type]


def _save(file: ir.Model, path: Path, *, beside: bool) -> None:
    import onnx_ir as ir

    weights = sum(
        value.const_value.nbytes for value in file.graph.initializers.values() if value.const_value is not None
    )
    if beside or weights > _LARGEST:
        ir.save(file, path, external_data=DATA)
    else:
        ir.save(ir.external_data.load_to_model(file), path)


def _has_external_data(file: ir.Model) -> bool:
    import onnx_ir as ir

    return any(isinstance(value.const_value, ir.ExternalTensor) for value in file.graph.initializers.values())


def _check(original: OnnxModel, model: OnnxModel, inputs: tuple[torch.Tensor, ...], path: Path, *, exact: bool) -> None:
    given = {str(value.name): one for value, one in zip(graph_inputs(original.file), inputs, strict=True)}
    made = _run(path, given)
    if exact:
        _compare(made, _run(original.path, given), "onnxruntime with the original file")
    elif not any(isinstance(one, Opaque) for one in model.modules()):
        with torch.no_grad():
            results = model(*inputs)
        wanted = [one.numpy() for one in (results if isinstance(results, tuple) else (results,))]
        _compare(made, wanted, "the rewritten model in PyTorch")


def _run(path: Path, inputs: dict[str, torch.Tensor]) -> Sequence[Any]:
    """What onnxruntime makes of a file."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError(f"{error.name} is not installed", "pip install 'skipgraph[onnx]'") from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    given = {name: tensor.numpy() for name, tensor in inputs.items()}
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        results: Sequence[Any] = session.run(None, given)
    except Exception as error:
        raise EmitError(
            f"onnxruntime does not run {path.name}: {first_line(error)}", "If it runs the original, please report it."
        ) from error
    return results


def _compare(made: Sequence[Any], wanted: Sequence[Any], who: str) -> None:
    for mine, theirs in zip(made, wanted, strict=True):
        if mine.shape != theirs.shape:
            raise VerificationError(
                f"onnxruntime makes {mine.shape} where {who} makes {theirs.shape}", "Please report it."
            )
        if not np.issubdtype(theirs.dtype, np.floating):
            same = bool(np.array_equal(mine, theirs))
            off, scale, allowed = float(not same), 1.0, 0.0
        else:
            off = float(np.abs(mine.astype(np.float64) - theirs.astype(np.float64)).max(initial=0.0))
            scale = float(np.abs(theirs.astype(np.float64)).max(initial=0.0))
            allowed = _TOLERANCES.get(str(theirs.dtype), 1e-1) * max(scale, 1e-6)
        if not off <= allowed:
            raise VerificationError(
                f"onnxruntime's output is off by {off:.3g} from {who}, whose largest is {scale:.3g}",
                "Please report it.",
            )
