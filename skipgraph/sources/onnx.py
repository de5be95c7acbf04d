"""ONNX files: ``model.onnx``, as any exporter wrote them.

A graph is read for inputs of certain shapes: those that the file names, or those that are asked for.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from skipgraph.errors import InputError, SourceError
from skipgraph.sources.registry import Example, Kind, Recipe, register

if TYPE_CHECKING:
    import onnx_ir as ir


def _recipe(match: re.Match[str], pretrained: bool) -> Recipe:
    path = Path(match["path"])
    if not path.is_file():
        raise SourceError(f"no such file: {path}", "Check the path.")
    if pretrained:
        raise SourceError(f"{path} has no pretrained weights but its own", "Leave --pretrained out.")

    def fitted(example: Example | None, data: bool) -> tuple[torch.nn.Module, Example]:
        from skipgraph.capture.onnx import load_file, read_model

        file = load_file(path)
        inputs = _inputs(file, path, example)
        return read_model(file, inputs, data=data, path=path.resolve()), (tuple(inputs.values()), {})

    return Recipe(weights="file", ready=True, fixed_mode=True, fitted=fitted)


def _inputs(file: ir.Model, path: Path, example: Example | None) -> dict[str, torch.Tensor]:
    """A tensor for each input of the graph, by its name."""
    from skipgraph.capture.onnx import graph_inputs

    values = graph_inputs(file)
    if example is None:
        return {
            str(value.name): torch.empty(_sizes(value, path), dtype=_dtype(value), device="meta") for value in values
        }
    args, kwargs = example
    names = [str(value.name) for value in values]
    given: dict[str, Any] = {**dict(zip(names, args, strict=False)), **_flat(kwargs)}
    if len(args) > len(names) or set(given) != set(names):
        raise InputError(
            f"{path} takes {', '.join(_described(value) for value in values)}; given were {', '.join(given) or 'none'}",
            "Give one --input for each, in order or by name: --input NAME=1x3x224x224.",
        )
    return {str(value.name): _fitting(given[str(value.name)], value, path) for value in values}


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted names, which are plain names in ONNX, put together again."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        items = dict(enumerate(value)) if isinstance(value, list) else value
        flat |= _flat(items, f"{prefix}{name}.") if isinstance(items, dict) else {f"{prefix}{name}": value}
    return flat


def _fitting(given: Any, value: ir.Value, path: Path) -> torch.Tensor:
    wanted = None if value.shape is None else list(value.shape)
    fits = isinstance(given, torch.Tensor) and (
        wanted is None
        or (
            len(wanted) == given.dim()
            and all(one in (size, -1) for one, size in zip(wanted, given.shape, strict=True) if isinstance(one, int))
        )
    )
    if not fits:
        shape = "x".join(map(str, given.shape)) if isinstance(given, torch.Tensor) else repr(given)
        raise InputError(f"{path} takes {_described(value)}, not {shape}", "Give it a shape of that form.")
    return torch.empty(given.shape, dtype=_dtype(value), device="meta")


def _sizes(value: ir.Value, path: Path) -> list[int]:
    """The sizes of an input; one sample where the batch is left open."""
    if value.shape is None:
        raise InputError(
            f"{path} does not say what shape {value.name} has", f"Give it: --input {value.name}=1x3x224x224."
        )
    # Some tools write -1 for a size that is left open.
    known = [size if isinstance(size, int) and size >= 0 else None for size in value.shape]
    sizes = [1 if size is None and not place else size for place, size in enumerate(known)]
    if None in sizes:
        raise InputError(
            f"{path} takes {_described(value)}, some of whose sizes are left open",
            f"Give them: --input {value.name}={'x'.join(str(size or 224) for size in sizes)}.",
        )
    return [size for size in sizes if size is not None]


def _dtype(value: ir.Value) -> torch.dtype:
    from skipgraph.capture.onnx.tensors import dtype_of

    dtype = dtype_of(value.dtype) if value.dtype is not None else None
    if dtype is None:
        raise SourceError(
            f"the input {value.name} is of a type that PyTorch has no tensors of", "Export it as float32."
        )
    return dtype


def _described(value: ir.Value) -> str:
    if value.shape is None:
        return str(value.name)
    sizes = (str(size) if isinstance(size, int) else str(size.value or "?") for size in value.shape)
    return f"{value.name} {'x'.join(sizes) or 'scalar'}"


register(Kind("ONNX", re.compile(r"(?P<path>.+\.onnx)", re.IGNORECASE), _recipe, "file.onnx"))
