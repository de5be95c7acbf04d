"""Measured peaks and times of exact rewrites, beside the original and a control.

    python benchmarks/rewriting.py [NAME …]

The control is the model emitted in the same style and not rewritten, so that freeing early is not credited to the
rewrite. Peaks are the allocator's, beside what was predicted for the emitted source; times are taken in turns with the
original (`skipgraph.bench`). The result is written to benchmarks/results/rewriting.txt.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from standard import STANDARD

import skipgraph as sg
from skipgraph.bench import bench
from skipgraph.bench.settings import device_name
from skipgraph.emit import emitted
from skipgraph.rewriting import planned

DEFAULT = ("unet_256", "densenet121")
WAYS: dict[str, dict[str, Any]] = {
    "model": {},
    "separate": {"execution": "separate"},
    "inference": {"inference": True},
}
HEAD = ("model", "way", "sites", "MiB", "predicted", "of original", "of control", "time of original's")
SECONDS = 6.0


def main() -> None:
    lines = [f"{device_name(torch.device('cpu'))}, torch {torch.__version__}", ""]
    lines.append("{:12} {:10} {:>7} {:>8} {:>10} {:>12} {:>11}  {}".format(*HEAD))
    for name in sys.argv[1:] or DEFAULT:
        for line in rows(name):
            print(line, flush=True)
            lines.append(line)
    target = Path(__file__).parent / "results" / "rewriting.txt"
    target.write_text("\n".join(lines) + "\n")


def rows(name: str) -> list[str]:
    """One line for the original, the control, and each way."""
    torch.manual_seed(0)
    model, inputs = STANDARD[name].model().eval(), STANDARD[name].inputs()
    results = {way: planned(model, inputs, sg.ConcatToSum(), **options) for way, options in WAYS.items()}
    first = next(iter(results.values()))
    made = {"control": emitted(first.original, first.inputs, title="control")}
    made |= {way: emitted(result.model, result.inputs, title=way) for way, result in results.items()}
    peaks: dict[str, int] = {}
    found = []
    for way, one in made.items():
        timed = bench(model, one.model, inputs, min_seconds=SECONDS)
        peaks.setdefault("original", timed.a.peak_bytes)
        peaks[way] = timed.b.peak_bytes
        sites = sum(outcome.status == "rewritten" for outcome in results[way].plan.outcomes) if way in results else 0
        found.append(row(name, way, sites, one.graph.cost.peak_bytes, peaks, str(timed.ratio.summary)))
    own = row(name, "original", 0, first.as_it_runs.cost.peak_bytes, {**peaks, "control": peaks["control"]}, "")
    return [own, *found]


def row(name: str, way: str, sites: int, predicted: int, peaks: dict[str, int], time: str) -> str:
    """A line of the table; ratios are how many times less is held."""
    peak = peaks[way]
    of_original, of_control = (f"{peaks[which] / peak:.2f}" for which in ("original", "control"))
    return (
        f"{name:12} {way:10} {sites:7} {peak / 2**20:8.2f} {predicted / 2**20:10.2f} {of_original:>12} {of_control:>11}"
        f"  {time}"
    )


if __name__ == "__main__":
    main()
