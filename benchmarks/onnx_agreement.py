"""Public models as ONNX files against the same models in PyTorch: skips, edges, multiply-adds; and their rewrites.

    python benchmarks/onnx_agreement.py [--only PATTERN]

Each model is written by both of PyTorch's exporters, and read from the file alone. Compared are the counts of skips, and
multiply-adds operator by operator: what differs is named. Files that have concat skips are rewritten by all sites
(``--execution separate``), which includes that onnxruntime is run on the original and on the rewritten file; its largest
difference is printed, over the largest output. Writes ``benchmarks/results/onnx_agreement.md``; exits with 1 if counts
differ, or a rewrite is wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import io
import logging
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from models import _made, _segmentation, _timm, _torchvision
from torch import nn

import skipgraph as sg
from skipgraph.errors import NothingToRewriteError
from skipgraph.sources import load

MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "torchvision resnet50": (_torchvision("resnet50"), (1, 3, 64, 64)),
    "torchvision densenet121": (_torchvision("densenet121"), (1, 3, 64, 64)),
    "torchvision mobilenet_v3_large": (_torchvision("mobilenet_v3_large"), (1, 3, 64, 64)),
    "torchvision googlenet": (_torchvision("googlenet", init_weights=False, aux_logits=False), (1, 3, 64, 64)),
    "torchvision shufflenet_v2_x1_0": (_torchvision("shufflenet_v2_x1_0"), (1, 3, 64, 64)),
    "torchvision vit_b_16": (_torchvision("vit_b_16"), (1, 3, 224, 224)),
    "timm convnext_tiny": (_timm("convnext_tiny"), (1, 3, 64, 64)),
    "timm dla34": (_timm("dla34"), (1, 3, 64, 64)),
    "timm hrnet_w18_small": (_timm("hrnet_w18_small"), (1, 3, 64, 64)),
    "timm efficientnet_b0": (_timm("efficientnet_b0"), (1, 3, 64, 64)),
    "smp Unet": (_segmentation("Unet", "resnet18"), (1, 3, 64, 64)),
    "smp UnetPlusPlus": (_segmentation("UnetPlusPlus", "resnet18"), (1, 3, 64, 64)),
    "monai BasicUNet": (_made("monai.networks.nets", "BasicUNet", spatial_dims=2), (1, 1, 64, 64)),
}
COUNTS = ("skips", "add", "concat", "gated", "short", "long", "identity", "projected", "edges")
HEAD = "| model | exporter | skips | edges | multiply-adds, file / model | what differs | rewritten | onnxruntime |"


def exported(model: nn.Module, image: torch.Tensor, path: Path, *, dynamo: bool) -> None:
    """Write the file."""
    options = {"external_data": False, "verbose": False} if dynamo else {}
    with contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        torch.onnx.export(model, (image,), str(path), dynamo=dynamo, **options)


def compared(name: str, *, dynamo: bool, folder: Path) -> tuple[str, bool]:
    """One line of the table, and whether all is well."""
    torch.manual_seed(0)
    build, shape = MODELS[name]
    model, image = build().eval(), torch.randn(shape)
    path = folder / "model.onnx"
    exported(model, image, path, dynamo=dynamo)
    source = load(str(path), device="cpu")
    theirs, ours = sg.trace(model, (image,)), sg.trace(source.model, source.args)
    same = all(getattr(theirs.counts, key) == getattr(ours.counts, key) for key in COUNTS)
    before, after = Counter(theirs.cost.flops_by_operator), Counter(ours.cost.flops_by_operator)
    differs = {key: after[key] - before[key] for key in sorted(before | after) if after[key] != before[key]}
    told = ", ".join(f"{key} {count:+,}" for key, count in differs.items()) or "nothing"
    sites, off, good = rewritten(path, source.model, image, folder)
    exporter = "dynamo" if dynamo else "TorchScript"
    counts = f"{ours.counts.skips}" + ("" if same else f" (model: {theirs.counts.skips})")
    ratio = f"{ours.cost.flops / theirs.cost.flops:.4f}"
    edges = f"{ours.counts.edges}"
    return f"| {name} | {exporter} | {counts} | {edges} | {ratio} | {told} | {sites} | {off} |", same and good


def rewritten(path: Path, model: nn.Module, image: torch.Tensor, folder: Path) -> tuple[str, str, bool]:
    """How many sites a rewrite takes, and by how much onnxruntime's outputs differ."""
    try:
        result = sg.rewrite(model, (image,), sg.ConcatToSum(), execution="separate")
    except NothingToRewriteError:
        return "-", "-", True
    sg.emit(result, folder / "out", force=True)
    outputs = []
    for file in (path, folder / "out" / "model.onnx"):
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        outputs.append(session.run(None, {session.get_inputs()[0].name: image.numpy()})[0])
    off = float(np.abs(outputs[1] - outputs[0]).max() / np.abs(outputs[0]).max())
    sites = sum(outcome.status == "rewritten" for outcome in result.plan.outcomes)
    return str(sites), f"{off:.1e}", off < 1e-4


def main() -> int:
    """Compare and report."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*")
    only = parser.parse_args().only
    lines, good = [HEAD, "|" + "---|" * HEAD.count(" | ") + "---|"], True
    print(*lines, sep="\n")
    for name in fnmatch.filter(MODELS, only):
        for dynamo in (False, True):
            with tempfile.TemporaryDirectory() as folder:
                line, well = compared(name, dynamo=dynamo, folder=Path(folder))
            good &= well
            lines.append(line)
            print(line, flush=True)
    if only == "*":
        text = f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}\n\n" + "\n".join(lines) + "\n"
        (Path(__file__).parent / "results" / "onnx_agreement.md").write_text(text, encoding="utf-8")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
