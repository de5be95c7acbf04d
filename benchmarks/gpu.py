"""Rewritten models against the originals, over the standard set, on one device.

    python benchmarks/gpu.py [--device cpu] [--quick] [--only PATTERN] [--batch N] [--minutes 7]

Each concat skip of a model is rewritten to a sum, in three ways: ``model`` (those that are worth it by a model of
cost), ``separate`` (all) and ``inference`` (as ``model``, for inference alone). Each is timed in turns with the
original by `skipgraph.bench`, in float32, TF32, bfloat16 and float16, and in bfloat16 with channels last; then
`torch.compile` of the original against the original. CPUs are measured in float32, and in bfloat16 if they compute in
it.

Results go to ``benchmarks/results/DEVICE.json``, a table in Markdown to standard output. What does not fit into the
time is left out, and said. It needs PyTorch, torchvision and skipgraph. It exits with 1 if nothing could be measured,
with 2 if there is no such device.
"""

from __future__ import annotations

import argparse
import fnmatch
import gc
import json
import re
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from standard import STANDARD

import skipgraph as sg
from skipgraph.bench import Bench, bench
from skipgraph.bench.settings import Settings, device_name

RESULTS = Path(__file__).parent / "results"
QUICK = ("unet_256", "uvit")
WAYS: dict[str, dict[str, Any]] = {
    "model": {"execution": "model"},
    "separate": {"execution": "separate"},
    "inference": {"execution": "model", "inference": True},
}
COMPILED = "torch.compile"
SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "cuda": {
        "float32": {"dtype": "f32"},
        "TF32": {"dtype": "tf32"},
        "bf16": {"dtype": "bf16"},
        "fp16": {"dtype": "fp16"},
        "bf16 channels-last": {"dtype": "bf16", "channels_last": True},
    },
    "cpu": {"float32": {"dtype": "f32"}, "bf16": {"dtype": "bf16"}},
}
COMPILED_SETTINGS = ("float32", "bf16")
# Seconds that have to be left before one of these is begun; longer, if the model has taken longer before.
RUNS = 40  # that a comparison takes at least
NEEDED = {"rewrite": 30.0, "compile": 60.0, "time": 3.0}


@dataclass
class Rows:
    """What was measured, what could not be, and what there was no time for."""

    deadline: float
    rows: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    _taken: dict[tuple[str, str], float] = field(default_factory=dict)

    def expect(self, what: str, model: str, seconds: float) -> None:
        """Say how long a step will take that was not taken before."""
        self._taken[what, model] = seconds

    @contextmanager
    def step(self, what: str, model: str, *more: str) -> Iterator[bool]:
        """Whether there is time for the block; if not, that is noted."""
        key, started = (what, model), time.monotonic()
        fits = started + max(NEEDED[what], self._taken.get(key, 0.0)) <= self.deadline
        if not fits:
            self.left_out.append(", ".join([model, *more]))
        yield fits
        self._taken[key] = max(self._taken.get(key, 0.0), time.monotonic() - started)

    def add(self, model: str, setting: str, way: str, outcome: Bench | str) -> None:
        """Note and print one comparison, or why there is none."""
        row: dict[str, Any] = {"model": model, "setting": setting, "way": way}
        row |= {"failed": outcome} if isinstance(outcome, str) else {"bench": outcome.as_json()}
        self.rows.append(row)
        print(f"{model} {setting} {way}: {outcome if isinstance(outcome, str) else outcome.summary}", file=sys.stderr)


def rewritten(
    rows: Rows, name: str, way: str, model: torch.nn.Module, inputs: tuple[torch.Tensor]
) -> torch.nn.Module | None:
    with rows.step("rewrite", name, way) as fits:
        if fits:
            try:
                return sg.rewrite(model, inputs, sg.ConcatToSum(), verified=False, **WAYS[way]).model
            except sg.SkipgraphError as error:
                rows.add(name, "", way, error.message)
    return None


def measure(rows: Rows, names: list[str], options: argparse.Namespace) -> None:
    """Every way in every setting, model by model; compilation, which takes longest, last."""
    settings = SETTINGS[options.device.partition(":")[0]]
    if options.quick or (options.device == "cpu" and not computes_in_bf16()):
        settings = {"float32": settings["float32"]}
    for name in names:
        case = STANDARD[name]
        model, inputs = case.model(), case.inputs()
        if options.device == "cpu":
            with torch.inference_mode():
                model(*inputs)  # the first is slower
                started = time.monotonic()
                model(*inputs)
            rows.expect("time", name, RUNS * (time.monotonic() - started))
        for way in WAYS:
            other = rewritten(rows, name, way, model, inputs)
            for setting, asked in settings.items() if other is not None else ():
                with rows.step("time", name, way, setting) as fits:
                    if fits:
                        rows.add(name, setting, way, compared(model, other, inputs, asked, options))
            del other
            clean()
    for name, setting in compilations(names, settings, options):
        with rows.step("compile", name, COMPILED, setting) as fits:
            if fits:
                model, inputs = STANDARD[name].model(), STANDARD[name].inputs()
                torch.compiler.reset()
                compiled = torch.compile(STANDARD[name].model(), dynamic=False)
                rows.add(name, setting, COMPILED, compared(model, compiled, inputs, settings[setting], options))
                clean()


def computes_in_bf16() -> bool:
    """Whether the CPU has instructions for bfloat16; without, a convolution takes a hundred times as long."""
    asked = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
    return any(ask is not None and ask() for ask in asked)


def compilations(names: list[str], settings: dict[str, Any], options: argparse.Namespace) -> Iterator[tuple[str, str]]:
    for setting in COMPILED_SETTINGS:
        if setting in settings and not options.quick:
            yield from ((name, setting) for name in names)


def compared(
    a: torch.nn.Module, b: Any, inputs: tuple[torch.Tensor], asked: dict[str, Any], options: argparse.Namespace
) -> Bench | str:
    try:
        return bench(a, b, inputs, device=options.device, batch=options.batch, min_seconds=options.seconds, **asked)
    except sg.SkipgraphError as error:
        return " ".join(error.message.split())


def clean() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def markdown(rows: list[dict[str, Any]]) -> str:
    """One line a model and setting; a cell has the time and the peak, each as a fraction of the original's."""
    ways = [*WAYS, COMPILED]
    lines = [f"| model | setting | original | {' | '.join(ways)} |", f"|---|---|---|{'---|' * len(ways)}"]
    measured = {(row["model"], row["setting"], row["way"]): row["bench"] for row in rows if "bench" in row}
    for model, setting in dict.fromkeys(key[:2] for key in measured):
        found = [measured.get((model, setting, way)) for way in ways]
        first = next(result for result in found if result is not None)
        original = f"{first['a']['seconds'] * 1e3:.3g} ms, {first['a']['peak_bytes'] / 2**20:.0f} MiB"
        lines.append(f"| {model} | {setting} | {original} | {' | '.join(map(cell, found))} |")
    return "\n".join(lines)


def cell(result: dict[str, Any] | None) -> str:
    if result is None:
        return "–"
    ratio = result["ratio"]
    peak = result["b"]["peak_bytes"] / max(1, result["a"]["peak_bytes"])
    mark = "=" if result["verdict"] == "no difference beyond noise" else ""
    return f"{ratio['value']:.2f}{mark} ({ratio['low']:.2f}–{ratio['high']:.2f}), peak {peak:.2f}"


def report(rows: Rows, device: str, seconds: float) -> None:
    """Write the results, and print them."""
    record = {
        "schema": "skipgraph.benchmarks.gpu/1",
        "device": device,
        "torch": torch.__version__,
        "seconds": round(seconds, 1),
        "rows": rows.rows,
        "left_out": rows.left_out,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{re.sub(r'[^a-z0-9]+', '_', device.lower()).strip('_')}.json"
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(
        f"{device}, torch {torch.__version__}. Time of a run and peak memory, as fractions of the original's; = is no"
    )
    print("difference beyond noise.\n")
    print(markdown(rows.rows))
    for row in rows.rows:
        if "failed" in row:
            print(f"\nNot measured: {row['model']} {row['setting']} {row['way']}: {row['failed']}")
    if rows.left_out:
        print(f"\nNo time was left for: {'; '.join(rows.left_out)}.")
    print(f"\n{path}", file=sys.stderr)


def main() -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu")
    parser.add_argument("--quick", action="store_true", help=f"{' and '.join(QUICK)} in float32 only, not compiled")
    parser.add_argument("--only", default="*", help="the models whose name matches this pattern")
    parser.add_argument("--batch", type=int, help="samples; 8 on CUDA, 1 on a CPU")
    parser.add_argument("--minutes", type=float, default=7.0, help="begin nothing that would take longer in all")
    parser.add_argument("--seconds", type=float, default=0.5, help="to time each comparison")
    options = parser.parse_args()
    started = time.monotonic()
    try:
        device = Settings(device=options.device).check()
    except sg.SkipgraphError as error:
        print(error, file=sys.stderr)
        return 2
    options.batch = options.batch or (8 if device.type == "cuda" else 1)
    warnings.filterwarnings("ignore")
    names = [name for name in STANDARD if fnmatch.fnmatch(name, options.only) and (not options.quick or name in QUICK)]
    rows = Rows(started + 60 * options.minutes)
    measure(rows, names, options)
    report(rows, device_name(device), time.monotonic() - started)
    return 0 if any("bench" in row for row in rows.rows) else 1


if __name__ == "__main__":
    sys.exit(main())
