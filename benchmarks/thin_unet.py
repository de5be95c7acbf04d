"""Time and memory of a full-size U-Net with fewer multiply-adds, against what they should give.

    python benchmarks/thin_unet.py [--device cpu] [--sizes 256 512] [--shares 0.85 0.75 0.5]

A U-Net of four levels, base 64, on one image. Ranks are chosen for a budget of multiply-adds, once at the concats alone
and once with all other layers too (``+``); weights are random, so that only time and memory mean anything. Each is
timed in turns with the original by `skipgraph.bench`. Printed are

- *gain*: how many times faster; *of ideal*: (gain - 1) over (multiply-adds before / after - 1);
- *peak*: measured memory of activations, original over rewritten;
- *skips*: bytes of the tensors that long skips hold, over those of the original, from the graphs;
- the layer whose pair is slowest for its multiply-adds, timed alone.

Writes ``benchmarks/results/thin_unet_DEVICE.json``. Runs on any CUDA machine as it is, with ``--device cuda``.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from standard import STANDARD
from torch import nn
from torch.utils.benchmark import Timer

import skipgraph as sg
from skipgraph.bench import bench
from skipgraph.bench.settings import device_name
from skipgraph.errors import BudgetError
from skipgraph.graph import SkipGraph
from skipgraph.rewriting import Rewritten, planned

RESULTS = Path(__file__).parent / "results"
SECONDS = 8.0  # of each pair of models


def skip_bytes(graph: SkipGraph, levels: int) -> int:
    """Bytes of what the long skips hold: the shortcut operand of each of the last merges that long skips enter."""
    long = [skip for skip in graph.skips if skip.span == "long"]
    return sum(skip.bytes for skip in long[-levels:])


def slowest(model: nn.Module, result: Rewritten, inputs: tuple[torch.Tensor, ...]) -> dict[str, Any]:
    """The factored layer that gains least for its multiply-adds, each pair timed alone on what its layer reads."""
    paths = [one.path for one in result.compressed.layers] if result.compressed else []
    worst: dict[str, Any] = {}
    for path in paths:
        layer: Any = model.get_submodule(path)
        pair: Any = result.reference.get_submodule(path)
        given: list[torch.Tensor] = []
        handle = layer.register_forward_pre_hook(lambda module, args, given=given: given.append(args[0]))
        with torch.inference_mode():
            model(*inputs)
            handle.remove()
            times = [
                Timer("run(x)", globals={"run": run, "x": given[0]}, num_threads=torch.get_num_threads())
                .blocked_autorange(min_run_time=0.2)
                .median
                for run in (layer, lambda x, pair=pair: pair.restore(pair.project(x)))
            ]
        taps = layer.weight[0, 0].numel()
        full = layer.weight.numel()
        made = sum(one.weight.numel() for one in (pair.project, pair.restore))
        wanted, found = full / made, times[0] / times[1]
        if not worst or found / wanted < worst["of ideal"]:
            worst = {"path": path, "of ideal": found / wanted, "gain": found, "taps": taps}
    return worst


def rewritten(size: int, share: float, also: tuple[str, ...], device: str) -> Rewritten | str:
    """The U-Net with fewer multiply-adds; or why it cannot have so few."""
    model, inputs = case(size, device)
    what = sg.ConcatToSum(budget={"flops": share - 1}, also=also)
    try:
        return planned(model, inputs, what, execution="separate")
    except BudgetError as error:
        return error.message


def case(size: int, device: str) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """The U-Net, and an image."""
    found = STANDARD[f"unet_{size}"]
    return found.model().to(device), tuple(one.to(device) for one in found.inputs())


def timed(result: Rewritten, size: int, device: str) -> dict[str, Any]:
    """A rewritten U-Net against the original, on an image of any size."""
    model, inputs = case(size, device)
    found = bench(model, result.model, inputs, device=device, threads=torch.get_num_threads(), min_seconds=SECONDS)
    before, after = result.before, result.after
    flops = after.cost.flops / before.cost.flops
    gain = 1 / found.ratio.value
    levels = sum(skip.span == "long" and skip.kind == "concat" for skip in before.skips)
    return {
        "flops": flops, "gain": gain, "interval": [1 / found.ratio.high, 1 / found.ratio.low],
        "of ideal": (gain - 1) / (1 / flops - 1), "peak": found.a.peak_bytes / found.b.peak_bytes,
        "skips": skip_bytes(after, levels) / skip_bytes(before, levels), "slowest": slowest(model, result, inputs),
    }  # fmt: skip


def table(rows: list[dict[str, Any]]) -> str:
    """In Markdown."""
    lines = ["| image | asked | layers | multiply-adds | gain | of ideal | peak | skips | slowest layer |",
             "|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for row in rows:
        head = f"| {row['size']} | {row['share']:.0%} | {'all' if row['also'] else 'at concats'} |"
        if "n/a" in row:
            lines.append(f"{head} n/a: {row['n/a'].partition(': ')[2]} | | | | | |")
            continue
        low, high = row["interval"]
        slow = row["slowest"]
        lines.append(
            f"{head} {row['flops']:.1%} | {row['gain']:.2f} ({low:.2f}-{high:.2f}) | {row['of ideal']:.2f} | "
            f"{row['peak']:.2f} | {row['skips']:.0%} | "
            f"{slow['path']}: {slow['gain']:.2f}, {slow['of ideal']:.2f} of ideal |"
        )
    return "\n".join(lines)


def main() -> int:
    """Measure and report."""
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--shares", type=float, nargs="+", default=[0.85, 0.75, 0.5])
    options = parser.parse_args()
    device = torch.device(options.device)
    wanted = [(share, also) for share in options.shares for also in ((), ("linear",))]
    # All is made before anything is timed, so that a few quiet minutes are enough.
    made = {one: rewritten(options.sizes[0], *one, options.device) for one in wanted}
    print("timing", file=sys.stderr, flush=True)
    rows: list[dict[str, Any]] = []
    for (share, also), result in made.items():
        for size in options.sizes:
            row = {"size": size, "share": share, "also": bool(also)}
            rows.append(row | ({"n/a": result} if isinstance(result, str) else timed(result, size, options.device)))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    name = device_name(device)
    data = {"device": name, "torch": torch.__version__, "threads": torch.get_num_threads(), "rows": rows}
    path = RESULTS / f"thin_unet_{re.sub(r'[^A-Za-z0-9]+', '_', name).strip('_')}.json"
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
