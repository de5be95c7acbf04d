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
from skipgraph_cli.output import check_target, format_for, our_output_only, write_file, write_standard_output
from skipgraph_cli.progress import progress

if TYPE_CHECKING:
    from skipgraph.inspection import Inspection

_SPEC = (
    "The model: path/model.py, path/model.py:Class(width=32), package.module:Name, timm:NAME, torchvision:NAME, "
    "hf:DIRECTORY-or-config.json, or file.pt2."
)
_INPUT = (
    "An example input, [NAME=]SHAPE[:DTYPE], once for each: --input 1x3x224x224, --input ids=1x128:int64. "
    "Without it: example_inputs of the file, or the library's own size."
)


def inspect(
    spec: Annotated[str, typer.Argument(metavar="SPEC", help=_SPEC, show_default=False)],
    inputs: Annotated[list[str] | None, typer.Option("--input", "-i", metavar="INPUT", help=_INPUT)] = None,
    format: Annotated[
        str | None,
        typer.Option("--format", "-f", metavar="FORMAT", help="table (default), json, dot, svg, png or pdf."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Short for --format json.")] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Write to a file; its suffix says the format if --format does not."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    depth: Annotated[
        int | None,
        typer.Option("--depth", metavar="N", min=1, help="Draw modules down to this depth. Default: what fits."),
    ] = None,
    unfold: Annotated[bool, typer.Option("--unfold", help="Draw repeated blocks one by one.")] = False,
    what_if: Annotated[
        bool, typer.Option("--what-if", help="Say for every skip what each possible rewrite would change.")
    ] = False,
    train: Annotated[
        bool, typer.Option("--train", help="Look at the training graph, and at what it keeps for the backward pass.")
    ] = False,
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights", metavar="FILE", help="Your weights: .safetensors, or a checkpoint that is a state dict."
        ),
    ] = None,
    pretrained: Annotated[bool, typer.Option("--pretrained", help="The library's own weights.")] = False,
    device: Annotated[
        str, typer.Option("--device", help="Where to build the model: meta needs no memory, cpu or cuda does.")
    ] = "meta",
    dtype: Annotated[
        str | None, typer.Option("--dtype", help="Convert parameters and inputs: float32, bf16, f16, …")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the random weights.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no warnings.")] = False,
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
