"""A rewritten model as a directory: its source and weights, the plan, the report; or as a module without skipgraph."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from torch import nn

import skipgraph
from skipgraph.capture.onnx import OnnxModel
from skipgraph.emit import alone_of, check_directory, emitted, write_directory
from skipgraph.emit.source import source
from skipgraph.errors import UsageError
from skipgraph.graph import SkipGraph
from skipgraph.passes.workbench import drawn
from skipgraph.report.changes import changes, headline, markdown, notes
from skipgraph.rewriting import Rewritten


def emit(
    result: Rewritten,
    directory: str | Path,
    *,
    force: bool = False,
    weights: str = "random",
    onnx: bool = False,
    pt2: bool = False,
    bench: str | None = None,
) -> dict[str, Any]:
    """Write a rewritten model as a directory that runs without skipgraph.

    Parameters
    ----------
    result : Rewritten
        What `skipgraph.rewrite` returned.
    directory : str or Path
        It is written whole or not at all.
    force : bool
        Replace a directory that was emitted before.
    weights : str
        What to call the weights in the report: ``"random"``, ``"pretrained"`` or ``"file"``.
    onnx, pt2 : bool
        Write ``model.onnx``, checked in onnxruntime, and ``model.pt2``, too.
    bench : str, optional
        The content of ``bench.json``.

    Returns
    -------
    dict
        The content of ``report.json``.

    Raises
    ------
    OutputError
        If the directory cannot be written, or exists.
    EmitError
        If something cannot be written as Python, or exported.
    VerificationError
        If what would be written computes anything else.

    Examples
    --------
    >>> import pathlib, skipgraph, tempfile, torch
    >>> class Joining(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.a, self.b = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Conv2d(11, 4, 1)
    ...
    ...     def forward(self, x):
    ...         return self.b(torch.cat([x, self.a(x).relu()], 1))
    >>> result = skipgraph.rewrite(Joining(), torch.randn(1, 3, 8, 8), skipgraph.ConcatToSum())
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     report = skipgraph.emit(result, f"{folder}/out")
    ...     print(*sorted(path.name for path in pathlib.Path(folder, "out").iterdir()))
    model.py plan.json report.json report.md weights.safetensors
    """
    check_directory(Path(directory), force=force)
    with tempfile.TemporaryDirectory(dir=Path(directory).resolve().parent, prefix=".skipgraph.") as folder:
        files, graph = _model_files(result, Path(folder), onnx=onnx, pt2=pt2)
        data = changes(result, graph, weights=weights)
        report = {**data, "skipgraph": skipgraph.__version__}
        files |= {
            "plan.json": result.plan.to_json(),
            "report.json": json.dumps(report, indent=1, ensure_ascii=False) + "\n",
            "report.md": markdown(data),
            **({"bench.json": bench} if bench is not None else {}),
        }
        write_directory(Path(directory), files, force=force)
    return data


def _model_files(
    result: Rewritten, folder: Path, *, onnx: bool, pt2: bool
) -> tuple[dict[str, str | bytes | Path], SkipGraph]:
    """The files that hold the model itself, some of them in ``folder``, and the graph of what they hold."""
    if isinstance(result.original, OnnxModel) and isinstance(result.model, OnnxModel):
        if pt2:
            raise UsageError("an ONNX file is written as ONNX alone", "Leave --pt2 out.")
        from skipgraph.emit.onnx_again import write_again

        exact = result.compressed is None
        again = write_again(result.original, result.model, result.inputs[0], folder, exact=exact)
        return {path.name: path for path in sorted(folder.iterdir())}, drawn(again, result.inputs)
    made = emitted(
        result.model, result.inputs, title=headline(result.plan), notes=notes(result.plan), onnx=onnx, pt2=pt2
    )
    return dict(made.files), made.graph


def standalone(result: Rewritten) -> nn.Module:
    """The module that `emit` writes as ``model.py``, with its weights: for tools that read a module's own source.

    ``result.model`` runs a graph. `torch.fx`, what is built on it (quantisation in FX mode), and reviewers want a
    forward in Python.

    Raises
    ------
    EmitError
        If something cannot be written as Python.
    VerificationError
        If what would be written computes anything else.
    """
    text = source(result.model, result.inputs, title=headline(result.plan), notes=notes(result.plan))
    return alone_of(text, result.model, result.inputs)
