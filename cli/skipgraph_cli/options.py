"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

SPEC_HELP = (
    "The model: path/model.py, path/model.py:Class(width=32), package.module:Name, timm:NAME, torchvision:NAME, "
    "hf:DIRECTORY-or-config.json, file.onnx, or file.pt2."
)
Spec = Annotated[str, typer.Argument(metavar="SPEC", help=SPEC_HELP, show_default=False)]
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        "-i",
        metavar="INPUT",
        help="An example input, [NAME=]SHAPE[:DTYPE], once for each: --input 1x3x224x224, --input ids=1x128:int64. "
        "Without it: example_inputs of the file, or the library's own size.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Short for --format json.")]
OutputFile = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="FILE", help="Write to a file; its suffix says the format if --format does not."
    ),
]
Train = Annotated[
    bool, typer.Option("--train", help="Look at the training graph, and at what it keeps for the backward pass.")
]
Weights = Annotated[
    Path | None,
    typer.Option("--weights", metavar="FILE", help="Your weights: .safetensors, or a checkpoint that is a state dict."),
]
Pretrained = Annotated[bool, typer.Option("--pretrained", help="The library's own weights.")]
Device = Annotated[str, typer.Option("--device", help="Where to build and compare the models: cpu or cuda.")]
Dtype = Annotated[str | None, typer.Option("--dtype", help="Convert parameters and inputs: float32, bf16, f16, …")]
Seed = Annotated[int, typer.Option("--seed", help="Of random weights, and of the numbers that are compared.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no warnings.")]
OutputDirectory = Annotated[
    Path,
    typer.Option("--output", "-o", metavar="DIR", help="The directory to write; it is written whole or not at all."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace a directory that was emitted before.")]
Calibrate = Annotated[
    str | None,
    typer.Option(
        "--calibrate",
        metavar="DATA",
        help="Inputs to factor layers by: file.npz, a directory of .npy files, or MODULE:LOADER. No labels are needed.",
    ),
]
