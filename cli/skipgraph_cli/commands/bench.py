"""``skipgraph bench A B``: two models timed in turns, and the memory that each needs."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from skipgraph_cli.guard import say
from skipgraph_cli.options import SPEC_HELP, Inputs, Quiet
from skipgraph_cli.output import check_target, format_for, our_output_only, write_file, write_standard_output
from skipgraph_cli.progress import progress

if TYPE_CHECKING:
    from skipgraph.bench import Bench
    from skipgraph.sources import Source

_FORMATS = ("table", "json")
_WEIGHTS = "Weights of {}: .safetensors, or a checkpoint that is a state dict."


def bench(
    a: Annotated[str, typer.Argument(metavar="A", help=SPEC_HELP, show_default=False)],
    b: Annotated[str, typer.Argument(metavar="B", help="The same, for the model to compare.", show_default=False)],
    inputs: Inputs = None,
    device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = "cpu",
    dtype: Annotated[
        str | None,
        typer.Option(
            "--dtype", help="Convert parameters and inputs: f32, bf16, fp16, f64; or tf32, f32 with rounded products."
        ),
    ] = None,
    channels_last: Annotated[bool, typer.Option("--channels-last", help="The layout of images and kernels.")] = False,
    compile: Annotated[bool, typer.Option("--compile", help="Both by torch.compile.")] = False,
    cuda_graphs: Annotated[bool, typer.Option("--cuda-graphs", help="Both captured once and replayed.")] = False,
    batch: Annotated[
        int | None, typer.Option("--batch", metavar="N", min=1, help="Samples, in place of the inputs' own number.")
    ] = None,
    train: Annotated[bool, typer.Option("--train", help="Forward and backward, not inference.")] = False,
    weights_a: Annotated[Path | None, typer.Option("--weights-a", metavar="FILE", help=_WEIGHTS.format("A"))] = None,
    weights_b: Annotated[Path | None, typer.Option("--weights-b", metavar="FILE", help=_WEIGHTS.format("B"))] = None,
    seconds: Annotated[
        float, typer.Option("--seconds", help="To measure in all; six rounds are measured however long they take.")
    ] = 2.0,
    threads: Annotated[
        int | None, typer.Option("--threads", metavar="N", min=1, help="Of the CPU. Default: what PyTorch takes.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="The result as JSON.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write to a file; .json means JSON.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    seed: Annotated[int, typer.Option("--seed", help="Of random weights.")] = 0,
    quiet: Quiet = False,
) -> None:
    """Time two models in turns on the same inputs, and measure the memory that each needs.

    The inputs are those of --input, else A's own. A difference is told with its 95 % interval, and only if it is
    beyond noise. Exit codes do not depend on which is faster.

    \b
    Examples:
      skipgraph bench path/model.py out/model.py
      skipgraph bench path/model.py out/model.py --train --batch 8 --threads 4
      skipgraph bench torchvision:densenet121 out/model.py --device cuda --dtype bf16 --channels-last
      skipgraph bench timm:resnet50 timm:resnet26 --compile --json -o bench.json
    """  # noqa: D301
    if output is not None:
        check_target(output, force=force)
    chosen = format_for(output, "json" if json else None, _FORMATS)
    with our_output_only(), progress(f"Comparing {a} and {b}", quiet=quiet) as tell:
        import torch

        from skipgraph.bench import Settings
        from skipgraph.bench import bench as measured

        own = Settings(device=device, dtype=dtype, cuda_graphs=cuda_graphs, training=train, min_seconds=seconds)
        own.check()  # before the models are built, which may take long
        first, second = (_loaded(*one, inputs or [], seed) for one in ((a, weights_a), (b, weights_b)))
        if not quiet:
            _warn_of(first, second, given=bool(inputs))
        torch.manual_seed(seed)
        result = measured(
            first.model,
            second.model,
            dict(first.kwargs) if first.kwargs and not first.args else tuple(first.args),
            device=device,
            dtype=dtype,
            channels_last=channels_last,
            compile=compile,
            cuda_graphs=cuda_graphs,
            batch=batch,
            training=train,
            threads=threads,
            min_seconds=seconds,
            names=(a, b),
            progress=tell,
        )
    content = _rendered(result, chosen, seen=output is None and sys.stdout.isatty())
    if output is None:
        write_standard_output(content)
    else:
        write_file(output, content, force=force)


def _loaded(spec: str, weights: Path | None, inputs: list[str], seed: int) -> Source:
    from skipgraph.sources import load

    return load(spec, inputs=inputs, weights=weights, device="cpu", seed=seed)


def _warn_of(first: Source, second: Source, *, given: bool) -> None:
    from skipgraph.capture.trees import tensors

    for note in [*first.notes, *second.notes]:
        say(f"warning: {note}")
    shapes = [[tuple(tensor.shape) for tensor in tensors((one.args, one.kwargs))] for one in (first, second)]
    if not given and shapes[0] != shapes[1]:
        say(f"warning: {second.spec} has example inputs of other shapes; it is given those of {first.spec}")


def _rendered(result: Bench, format: str, *, seen: bool) -> str:
    if format == "json":
        import json

        return json.dumps(result.as_json(), indent=1, ensure_ascii=False) + "\n"
    from skipgraph.bench import table

    width = shutil.get_terminal_size().columns if seen else None
    return table(result, color=seen and "NO_COLOR" not in os.environ, width=width)
