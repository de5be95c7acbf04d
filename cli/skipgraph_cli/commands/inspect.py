"""``skipgraph inspect SPEC``: every skip of a model, and what it costs."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from skipgraph.errors import UsageError
from skipgraph_cli.guard import say
from skipgraph_cli.options import Dtype, Inputs, Json, OutputFile, Pretrained, Quiet, Spec, Train, Weights
from skipgraph_cli.output import check_target, format_for, our_output_only, write_file, write_standard_output
from skipgraph_cli.progress import progress

if TYPE_CHECKING:
    from skipgraph.inspection import Inspection


def inspect(
    spec: Spec,
    inputs: Inputs = None,
    format: Annotated[
        str | None,
        typer.Option("--format", "-f", metavar="FORMAT", help="table (default), json, dot, svg, png or pdf."),
    ] = None,
    json: Json = False,
    output: OutputFile = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    depth: Annotated[
        int | None,
        typer.Option("--depth", metavar="N", min=1, help="Draw modules down to this depth. Default: what fits."),
    ] = None,
    unfold: Annotated[bool, typer.Option("--unfold", help="Draw repeated blocks one by one.")] = False,
    what_if: Annotated[
        bool, typer.Option("--what-if", help="Say for every skip what each possible rewrite would change.")
    ] = False,
    train: Train = False,
    weights: Weights = None,
    pretrained: Pretrained = False,
    device: Annotated[
        str, typer.Option("--device", help="Where to build the model: meta needs no memory, cpu or cuda does.")
    ] = "meta",
    dtype: Dtype = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the random weights.")] = 0,
    quiet: Quiet = False,
) -> None:
    """Find every skip of a model, classify it, and say what it costs.

    The model is run once, without data. Tables, JSON, DOT and SVG go to standard output unless -o names a file;
    PNG and PDF do so only if it is redirected.

    \b
    Examples:
      skipgraph inspect path/model.py
      skipgraph inspect 'path/model.py:UNet(width=32)' --input 1x3x256x256
      skipgraph inspect timm:resnet50 --what-if
      skipgraph inspect hf:path/to/config.json --input input_ids=1x512:int64
      skipgraph inspect torchvision:densenet121 --train --json
      skipgraph inspect model.onnx --input image=1x3x512x512
      skipgraph inspect path/model.py -o model.svg
    """  # noqa: D301
    if json and format not in (None, "json"):
        raise UsageError(f"--json and --format {format} were both given", "Give one of them.")
    if output is not None:
        check_target(output, force=force)
    warn = _ignore if quiet else _warn

    with our_output_only(), progress(f"Inspecting {spec}", quiet=quiet):
        from skipgraph import report

        chosen = format_for(output, "json" if json else format, report.formats())
        inspection = _inspect(spec, inputs or [], weights, pretrained, device, dtype, seed, train)
    for warning in inspection.warnings:
        warn(warning)

    with progress(f"Writing {chosen}", quiet=quiet):
        seen = output is None and sys.stdout.isatty()
        content = report.render(
            inspection,
            chosen,
            depth=depth,
            unfold=unfold,
            what_if=what_if,
            color=seen and "NO_COLOR" not in os.environ,
            width=shutil.get_terminal_size().columns if seen else None,
            warn=warn,
        )
    if output is None:
        write_standard_output(content)
        return
    if chosen != "dot" and report.is_dot(content):
        output = output.with_suffix(".dot")
        _warn(f"the diagram's source was written instead, to {output}")
    write_file(output, content, force=force)


def _inspect(
    spec: str,
    inputs: list[str],
    weights: Path | None,
    pretrained: bool,
    device: str,
    dtype: str | None,
    seed: int,
    train: bool,
) -> Inspection:
    from skipgraph.inspection import inspect_source
    from skipgraph.sources import load
    from skipgraph.sources.inputs import parse_dtype

    source = load(
        spec,
        inputs=inputs,
        weights=weights,
        pretrained=pretrained,
        device=device,
        dtype=parse_dtype(dtype) if dtype is not None else None,
        seed=seed,
    )
    return inspect_source(source, train=train)


def _warn(message: str) -> None:
    say(f"warning: {message}")


def _ignore(message: str) -> None:
    """The warnings of a quiet run."""
