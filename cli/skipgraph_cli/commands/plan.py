"""``skipgraph plan SPEC``: what error fewer multiply-adds would cost."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from skipgraph.errors import UsageError
from skipgraph_cli.models import calibration, example, load_source
from skipgraph_cli.options import Calibrate, Device, Dtype, Force, Inputs, Pretrained, Quiet, Seed, Spec, Weights
from skipgraph_cli.output import check_target, our_output_only, write_file
from skipgraph_cli.progress import progress

_KINDS = ("svg", "png", "pdf")


def plan(
    spec: Spec,
    calibrate: Calibrate = None,
    also: Annotated[
        list[str] | None,
        typer.Option("--also", metavar="WHAT", help="linear: all other convolutions and linear layers too."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="A plot: .svg, .png or .pdf."),
    ] = None,
    only: Annotated[list[str] | None, typer.Option("--only", metavar="PATTERN", help="These concats alone.")] = None,
    skip: Annotated[list[str] | None, typer.Option("--skip", metavar="PATTERN", help="Not these concats.")] = None,
    inputs: Inputs = None,
    weights: Weights = None,
    pretrained: Pretrained = False,
    device: Device = "cpu",
    dtype: Dtype = None,
    seed: Seed = 0,
    force: Force = False,
    json: Annotated[bool, typer.Option("--json", help="The points as JSON on standard output.")] = False,
    quiet: Quiet = False,
) -> None:
    """Show the trade-off of error against multiply-adds, before anything is rewritten.

    Each line is the choice of ranks of least predicted error for that many multiply-adds, over the layers that read
    concats. The budgets of skipgraph rewrite --budget lie on it.

    \b
    Examples:
      skipgraph plan path/model.py --weights best.safetensors --calibrate inputs.npz
      skipgraph plan path/model.py --weights best.safetensors --calibrate inputs.npz --also linear -o trade-off.svg
    """  # noqa: D301
    kind = output.suffix.lstrip(".").lower() if output is not None else ""
    if output is not None and kind not in _KINDS:
        raise UsageError(
            f"no plot can be written as {output.name}", f"Use one of: {', '.join('.' + one for one in _KINDS)}."
        )
    if output is not None:
        check_target(output, force=force)
    with our_output_only(), progress(f"Planning {spec}", quiet=quiet) as tell:
        from skipgraph.passes import ConcatToSum
        from skipgraph.report.trade_off import as_data, plot, terminal
        from skipgraph.rewriting import trade_off

        source = load_source(spec, inputs, weights, pretrained, device, dtype, seed)
        data = calibration(calibrate, source) if calibrate else None
        points = trade_off(
            source.model, example(source), ConcatToSum(also=tuple(also or ())), only=only or (), skip=skip or (),
            calibrate=data, seed=seed, progress=tell,
        )  # fmt: skip
        found = as_data(points, spec, "moments" if data is not None else "svd")
        if output is not None:
            tell("drawing")
            write_file(output, plot(found, kind), force=force)
    if json:
        import json as encoder

        print(encoder.dumps(found, indent=1, ensure_ascii=False))
        return
    seen = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if seen else None
    sys.stdout.write(terminal(found, color=seen and "NO_COLOR" not in os.environ, width=width))
