"""``skipgraph apply PLAN SPEC``: the same rewrite on another checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from skipgraph_cli.models import calibration, example, load_source, show
from skipgraph_cli.options import (
    Calibrate,
    Device,
    Dtype,
    Force,
    Inputs,
    OutputDirectory,
    Pretrained,
    Quiet,
    Seed,
    Spec,
    Weights,
)
from skipgraph_cli.output import our_output_only, read_text
from skipgraph_cli.progress import progress


def apply(
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="The plan.json of an emitted directory.")],
    spec: Spec,
    output: OutputDirectory,
    calibrate: Calibrate = None,
    inputs: Inputs = None,
    weights: Weights = None,
    pretrained: Pretrained = False,
    device: Device = "cpu",
    dtype: Dtype = None,
    seed: Seed = 0,
    force: Force = False,
    json: Annotated[bool, typer.Option("--json", help="The report as JSON on standard output.")] = False,
    quiet: Quiet = False,
) -> None:
    """Rewrite another checkpoint of the same architecture as a plan says.

    \b
    Examples:
      skipgraph apply out/plan.json path/model.py --weights later.safetensors -o later
      skipgraph apply out/plan.json path/model.py --weights later.safetensors --calibrate inputs.npz -o later
    """  # noqa: D301
    with our_output_only(), progress(f"Rewriting {spec}", quiet=quiet) as tell:
        from skipgraph.delivery import emit
        from skipgraph.emit.directory import check_directory
        from skipgraph.plan import Plan
        from skipgraph.rewriting import apply as applied

        check_directory(output, force=force)
        known = Plan.from_json(read_text(plan))
        source = load_source(spec, inputs, weights, pretrained, device, dtype, seed)
        tell("rewriting")
        data = calibration(calibrate, source) if calibrate else None
        result = applied(source.model, example(source), known, calibrate=data)
        result.plan = result.plan.named(spec)
        report = emit(result, output, weights=source.weights, force=force)
    show(report, as_json=json)
