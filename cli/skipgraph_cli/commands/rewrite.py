"""``skipgraph rewrite SPEC``: concats to projected sums, and sums to concats."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skipgraph.errors import UsageError
from skipgraph_cli.models import calibration, example, load_source, show
from skipgraph_cli.options import Calibrate, Device, Dtype, Force, Inputs, Pretrained, Quiet, Seed, Spec, Weights
from skipgraph_cli.output import our_output_only
from skipgraph_cli.progress import progress

if TYPE_CHECKING:
    from skipgraph.rewriting import Rewritten

_PATTERN = "over ids of skips and merges and paths of modules; * stands for anything. May be given more than once."


def rewrite(
    spec: Spec,
    concat_to_sum: Annotated[
        bool, typer.Option("--concat-to-sum", help="Concat skips become sums of projections, exactly.")
    ] = False,
    sum_to_concat: Annotated[
        bool, typer.Option("--sum-to-concat", help="Sums of linear layers become one layer on a concat, exactly.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="The directory to write, whole or not at all."),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="PATTERN", help=f"Nothing else: {_PATTERN}")
    ] = None,
    skip: Annotated[list[str] | None, typer.Option("--skip", metavar="PATTERN", help=f"Not these: {_PATTERN}")] = None,
    execution: Annotated[
        str,
        typer.Option(
            "--execution",
            metavar="HOW",
            help="separate: every concat goes that can; model: those whose sum is worth it by a model of cost; "
            "measured: as model, with the time of each site measured here.",
        ),
    ] = "model",
    inference: Annotated[
        bool, typer.Option("--inference", help="Fold batch norms, add up in bands: less memory, no training.")
    ] = False,
    eval_only: Annotated[
        bool, typer.Option("--eval-only", help="Sums: in evaluation alone, where a batch norm is part of its layer.")
    ] = False,
    allow_identity: Annotated[
        bool, typer.Option("--allow-identity", help="Sums: also where only identities fit, which remove nothing.")
    ] = False,
    rank: Annotated[
        str | None,
        typer.Option("--rank", metavar="R", help="Factor the layers: a share of full rank (0.5), or channels (64)."),
    ] = None,
    max_error: Annotated[
        float | None,
        typer.Option("--max-error", metavar="E", help="Factor each layer as far as its relative error allows: 0.01."),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            metavar="LIMITS",
            help="Factor the layers, ranks chosen together, until the whole model has changed by: flops=-30%. "
            "Of flops, parameters, peak and latency, more than one with commas in between.",
        ),
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option("--also", metavar="WHAT", help="linear: factor all other convolutions and linear layers too."),
    ] = None,
    calibrate: Calibrate = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and write nothing.")] = False,
    bench: Annotated[bool, typer.Option("--bench", help="Time the original and the rewritten model.")] = False,
    onnx: Annotated[bool, typer.Option("--onnx", help="Write model.onnx too, checked in onnxruntime.")] = False,
    pt2: Annotated[bool, typer.Option("--pt2", help="Write model.pt2 too.")] = False,
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
    """Rewrite the skips of a model, prove it, and write a model that stands alone.

    Every rewrite is checked in float64 before anything is written: outputs, gradients and buffers, in training and in
    evaluation, with your weights and with redrawn ones. With --rank, --max-error or --budget the layers that read the
    concats get fewer channels, which approximates the model; the error is predicted, and measured on --calibrate.

    \b
    Examples:
      skipgraph rewrite path/model.py --concat-to-sum --dry-run
      skipgraph rewrite path/model.py --weights best.safetensors --concat-to-sum -o out
      skipgraph rewrite torchvision:densenet121 --concat-to-sum --execution separate -o out
      skipgraph rewrite path/model.py --concat-to-sum --only 'decoder.*' --inference --onnx -o out
      skipgraph rewrite timm:resnet50 --sum-to-concat --eval-only -o out
      skipgraph rewrite path/model.py --concat-to-sum --budget flops=-30% --calibrate inputs.npz -o out
      skipgraph rewrite path/model.py --concat-to-sum --rank 0.5 --calibrate images/ -o out
      skipgraph rewrite model.onnx --concat-to-sum --execution separate -o out
    """  # noqa: D301
    if concat_to_sum == sum_to_concat:
        raise UsageError("say which rewrite", "Give either --concat-to-sum or --sum-to-concat.")
    if output is None and not dry_run:
        raise UsageError("there is no directory to write", "Give one by -o DIR; or --dry-run, to write nothing.")
    if concat_to_sum and (eval_only or allow_identity):
        raise UsageError("--eval-only and --allow-identity are about sums", "Leave them out, or give --sum-to-concat.")
    lossy = any(one is not None for one in (rank, max_error, budget))
    if not lossy and (also or calibrate):
        raise UsageError("--also and --calibrate are about lower ranks", "Give --rank, --max-error or --budget too.")
    if lossy and not concat_to_sum:
        raise UsageError("--rank, --max-error and --budget are about concats", "Give --concat-to-sum too.")
    with our_output_only(), progress(f"Rewriting {spec}", quiet=quiet) as tell:
        from skipgraph.compress.limits import parse_budget, parse_rank
        from skipgraph.delivery import emit
        from skipgraph.emit.directory import check_directory
        from skipgraph.passes import ConcatToSum, SumToConcat
        from skipgraph.report.changes import changes
        from skipgraph.rewriting import planned
        from skipgraph.rewriting import rewrite as rewritten

        if output is not None and not dry_run:
            check_directory(output, force=force)
        source = load_source(spec, inputs, weights, pretrained, device, dtype, seed)
        kind: Any = SumToConcat(eval_only=eval_only, allow_identity=allow_identity)
        if concat_to_sum:
            limits = parse_budget(budget) if budget is not None else None
            kind = ConcatToSum(parse_rank(rank) if rank is not None else None, max_error, limits, tuple(also or ()))
        asked: dict[str, Any] = {
            "only": only or (), "skip": skip or (), "execution": execution, "inference": inference, "seed": seed,
            "calibrate": calibration(calibrate, source) if calibrate else None,
            "progress": tell,
        }  # fmt: skip
        if dry_run:
            result = planned(source.model, example(source), kind, **asked)
            result.plan = result.plan.named(spec)
            data = changes(result, _graph(result), weights=source.weights)
        else:
            result = rewritten(source.model, example(source), kind, **asked)
            result.plan = result.plan.named(spec)
            assert output is not None
            timed = _timed(source.model, result, example(source)) if bench else None
            tell("writing")
            data = emit(result, output, weights=source.weights, force=force, onnx=onnx, pt2=pt2, bench=timed)
    show(data, as_json=json)


def _graph(result: Rewritten) -> Any:
    """The graph of what would be written."""
    from skipgraph.emit import emitted

    return result.after if result.model.is_source else emitted(result.model, result.inputs, title="").graph


def _timed(model: Any, result: Rewritten, inputs: Any) -> str:
    import json

    from skipgraph.bench import bench, table

    found = bench(model, result.model, inputs, names=("original", "rewritten"))
    sys.stderr.write(table(found))
    return json.dumps(found.as_json(), indent=1, ensure_ascii=False) + "\n"
