"""How long an inspection takes, as ratios to one plain forward on the meta device, beside other tools.

    python benchmarks/inspect_speed.py [--rounds 9] [--only PATTERN] [--no-peers] [--json FILE]

CPU seconds (``time.process_time``) on one thread, warm, gradients off, everything in one process; in each round every
tool runs once, in turn, and the medians over the rounds are compared. skipgraph's figure is capture + graph + skips +
cost. fvcore cannot run on meta tensors: it is given the same model on the CPU. ptflops counts FLOPs alone.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import gc
import io
import json
import logging
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from skipgraph.capture import capture
from skipgraph.cost import price
from skipgraph.graph import build
from skipgraph.skips import find_skips
from skipgraph.sources import load
from skipgraph.sources.torchvision_operators import declare_missing

MODELS = {
    "resnet50": "torchvision:resnet50",
    "densenet201": "torchvision:densenet201",
    "unet": str(Path(__file__).parents[1] / "fixtures" / "unet.py"),
    "vit_base": "timm:vit_base_patch16_224",
    "convnext_base": "timm:convnext_base",
    "hrnet_w18": "timm:hrnet_w18",
    "efficientnet_b4": "timm:efficientnet_b4",
    "gpt2": "gpt2",
}
Inputs = tuple[tuple[torch.Tensor, ...], dict[str, torch.Tensor]]


class Gpt2(torch.nn.Module):
    """GPT-2 with the attention and the mask that let it run on meta tensors: other masks are made from values."""

    def __init__(self) -> None:
        super().__init__()
        import transformers

        config = transformers.GPT2Config(use_cache=False, attn_implementation="eager")
        self.model = transformers.GPT2Model(config)

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The last hidden states."""
        return self.model(input_ids=tokens, attention_mask=mask).last_hidden_state


def model_of(spec: str, device: str) -> tuple[torch.nn.Module, Inputs]:
    """The model and its inputs on a device."""
    if spec == "gpt2":
        with torch.device(device):
            return Gpt2().eval(), ((torch.zeros(1, 128, dtype=torch.long), torch.ones(1, 128, dtype=torch.long)), {})
    source = load(spec)
    if device == "cpu":
        source = source.with_data()
    else:
        source.model.to("meta")
    args = tuple(torch.empty(tensor.shape, dtype=tensor.dtype, device=device) for tensor in source.args)
    return source.model.eval(), (args, {})


def inspect_once(model: torch.nn.Module, inputs: Inputs) -> None:
    """Everything that `skipgraph inspect` does between loading and reporting."""
    program = capture(model, *inputs)
    graph = build(program)
    find_skips(graph)
    price(graph, program)


def fvcore_once(model: torch.nn.Module, inputs: Inputs) -> None:
    """Count FLOPs with fvcore."""
    from fvcore.nn import FlopCountAnalysis

    analysis = FlopCountAnalysis(model, inputs[0])
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    analysis.total()


def torchview_once(model: torch.nn.Module, inputs: Inputs) -> None:
    """Trace a drawing with torchview; nothing is laid out."""
    import torchview

    torchview.draw_graph(model, input_data=list(inputs[0]), device="meta", mode="eval", save_graph=False)


def torchinfo_once(model: torch.nn.Module, inputs: Inputs) -> None:
    """Summarise with torchinfo."""
    import torchinfo

    torchinfo.summary(model, input_data=list(inputs[0]), device="meta", verbose=0)


def ptflops_once(model: torch.nn.Module, inputs: Inputs) -> None:
    """Count FLOPs with ptflops, on meta tensors; it calls the model with what its constructor of inputs returns."""
    import inspect

    import ptflops

    names = list(inspect.signature(model.forward).parameters)

    def given(_: tuple[int, ...]) -> dict[str, torch.Tensor]:
        return dict(zip(names, inputs[0], strict=False))

    flops, _ = ptflops.get_model_complexity_info(
        model, (1,), input_constructor=given, print_per_layer_stat=False, verbose=False, as_strings=False
    )
    if not flops:  # it swallows what the model raises
        raise RuntimeError("ptflops has no result")


PEERS = {"fvcore": fvcore_once, "torchview": torchview_once, "torchinfo": torchinfo_once, "ptflops": ptflops_once}
ON_CPU = {"fvcore"}


def measure(runs: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Median CPU seconds of each, interleaved; NaN for what raises."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    failed: set[str] = set()
    for number in range(rounds + 1):
        for name, run in runs.items():
            if name in failed:
                continue
            gc.collect()  # nobody pays for what another left behind
            began = time.process_time()
            try:
                with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                    run()
            except Exception as error:
                failed.add(name)
                print(f"  {name} failed: {type(error).__name__}: {str(error).splitlines()[0][:80]}", file=sys.stderr)
                continue
            if number:  # the first round warms up
                seconds[name].append(time.process_time() - began)
    return {name: statistics.median(times) if times else float("nan") for name, times in seconds.items()}


def compare(name: str, rounds: int, peers: bool) -> dict[str, float]:
    """Seconds of each tool on one model."""
    model, inputs = model_of(MODELS[name], "meta")
    runs: dict[str, Callable[[], None]] = {
        "forward": lambda: model(*inputs[0]),
        "skipgraph": lambda: inspect_once(model, inputs),
    }
    if peers:
        on_cpu = model_of(MODELS[name], "cpu")
        for peer, once in PEERS.items():
            runs[peer] = partial(once, *(on_cpu if peer in ON_CPU else (model, inputs)))
    return measure(runs, rounds)


def main() -> int:
    """Print the table; 1 if a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", default="*")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    declared = declare_missing()  # torchvision's custom operators, where only a CPU torch is installed
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    rows = {}
    tools = ("skipgraph", *PEERS)
    print(f"{'model':16} {'forward':>9} " + " ".join(f"{tool:>10}" for tool in tools))
    for name in MODELS:
        if not fnmatch.fnmatch(name, options.only):
            continue
        row = compare(name, options.rounds, not options.no_peers)
        rows[name] = row
        cells = " ".join(f"{row.get(tool, float('nan')) / row['forward']:10.2f}" for tool in tools)
        print(f"{name:16} {row['forward'] * 1e3:6.1f} ms {cells}", flush=True)
    median = statistics.median(row["skipgraph"] / row["forward"] for row in rows.values())
    behind = [
        f"{name} ({peer})" for name, row in rows.items() for peer in PEERS if row.get(peer, 1e9) <= row["skipgraph"]
    ]
    print(f"skipgraph: {median:.2f} meta forwards in the median; behind a peer on: {', '.join(behind) or 'none'}")
    if options.json:
        record = {"machine": platform.processor() or platform.machine(), "torch": torch.__version__, "seconds": rows}
        options.json.write_text(json.dumps(record, indent=1) + "\n")
    del declared
    return 1 if median > 0.8 or behind else 0


if __name__ == "__main__":
    sys.exit(main())
