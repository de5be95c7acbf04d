"""ONNX files, read with care: what a file says of others is not believed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from skipgraph.errors import MissingDependencyError, SourceError, first_line

if TYPE_CHECKING:
    import onnx_ir as ir


def load_file(path: Path) -> ir.Model:
    """What an ONNX file holds, its model-local functions inlined, no external data read yet.

    Raises
    ------
    SourceError
        If it is no whole ONNX file, or its external data lies outside its directory or is missing.
    MissingDependencyError
        If onnx or onnx-ir is not installed.
    """
    try:
        import onnx_ir as ir
        from onnx_ir.passes.common import InlinePass
    except ImportError as error:
        raise MissingDependencyError(f"{error.name} is not installed", "pip install 'skipgraph[onnx]'") from None
    try:
        model = ir.load(path)
        if model.functions:
            InlinePass()(model)
    except Exception as error:  # whatever a broken file provokes
        raise SourceError(f"{path} is not a whole ONNX file: {first_line(error)}", "Export the model again.") from error
    if not len(model.graph):
        raise SourceError(f"{path} is not a whole ONNX file: its graph is empty", "Export the model again.")
    for tensor in _external(model):
        _check_place(path, tensor)
    return model


def graph_inputs(file: ir.Model) -> list[ir.Value]:
    """What has to be given to a graph: old files list their initialisers among its inputs."""
    return [value for value in file.graph.inputs if value.name not in file.graph.initializers]


def _external(model: ir.Model) -> list[ir.ExternalTensor]:
    import onnx_ir as ir

    tensors = [value.const_value for graph in model.graphs() for value in graph.initializers.values()]
    for node in model.graph.all_nodes():
        tensors += [one.as_tensor() for one in node.attributes.values() if one.type is ir.AttributeType.TENSOR]
    return [one for one in tensors if isinstance(one, ir.ExternalTensor)]


def _check_place(path: Path, tensor: ir.ExternalTensor) -> None:
    """Refuse a tensor whose data is not in a plain file below the model's directory.

    Symbolic links are followed first, so that none leads out.
    """
    folder = path.resolve().parent
    location = str(tensor.location)
    place = (folder / location).resolve()
    if not place.is_relative_to(folder):
        raise SourceError(
            f"{path} is refused: the data of {tensor.name} lies in {location}, outside the model's directory",
            "Keep external data beside the model.",
        )
    if not place.is_file():
        raise SourceError(
            f"the external data of {path} is missing: there is no file {place}",
            "Keep files of external data beside the model.",
        )
    end = (tensor.offset or 0) + (tensor.length or tensor.nbytes)
    if place.stat().st_size < end:
        raise SourceError(f"the external data of {path} is cut short: {place}", "Copy the file again.")
