"""What the compression pass predicts against what is measured, and its choice of ranks against equal ones.

    python benchmarks/predictions.py [--task digits] [--seeds 0 1 2] [--workers 2]

On the networks of ``compression_task.py``:

- *Errors.* Every layer is factored, at four shares of its break-even rank in each form, by the moments of calibration
  inputs. The relative error of its output is predicted, and measured on inputs that the moments have not seen. So is
  that of the model's output for four budgets, with ``--also linear`` and everything else as it is by default. Reported
  are Spearman's rank correlation and the share of those whose ratio of measured to predicted error is within 2, of
  those below 0.3.
- *Choice.* The ranks that the integer program chooses, against the same share of full rank in every layer at the same
  multiply-adds: the objective of the program (predicted error of the output) and the measured quality, without tuning.

Writes ``benchmarks/results/predictions.json`` and prints the tables of ``docs/compression.md``. Needs the extra
``benchmarks``.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from compression_task import TASKS, Task
from scipy.stats import spearmanr

import skipgraph as sg
from skipgraph.capture import runnable
from skipgraph.compress.candidates import Bench, candidate, candidates_of, weighed
from skipgraph.compress.choose import Candidate, chosen
from skipgraph.compress.data import Batch
from skipgraph.compress.measured import Error, run
from skipgraph.compress.moments import gathered
from skipgraph.compress.sites import Layer
from skipgraph.passes.workbench import drawn
from skipgraph.rewriting import planned
from skipgraph.rewriting.factored import Lossy, layers_of
from skipgraph.rewriting.result import Wanted

RESULTS = Path(__file__).parent / "results" / "predictions.json"
SHARES_OF_RANK = (0.2, 0.4, 0.6, 0.8)
BUDGETS_OF_OUTPUTS = (0.85, 0.75, 0.6, 0.5)
BUDGETS = (0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5, 0.45)
HALVINGS = 14


def batches(inputs: list[torch.Tensor]) -> list[Batch]:
    """As the pass takes them."""
    return [((one,), {}) for one in inputs]


def errors_of_layers(bench: Bench, layers: list[Layer], unseen: list[Batch]) -> list[tuple[float, float]]:
    """(predicted, measured) for every layer, form and rank."""
    found = []
    for layer in layers:
        module = bench.model.get_submodule(layer.path)
        pairs = []
        for form in ("project", "restore") if layer.shape[2] > 1 else ("project",):
            ranks = {max(1, round(share * layer.break_even(form))) for share in SHARES_OF_RANK}
            pairs += [candidate(bench, layer, form, rank) for rank in sorted(ranks) if rank <= layer.break_even(form)]
        made = [bench.pair(one) for one in pairs]
        errors = [Error(axis=-1 if isinstance(module, torch.nn.Linear) else 1) for _ in pairs]

        def look(module: Any, given: Any, wanted: torch.Tensor, made: Any = made, errors: Any = errors) -> None:
            for one, error in zip(made, errors, strict=True):
                error.add(one(given[0]), wanted)

        handle = module.register_forward_hook(look)
        for batch in unseen:
            run(bench.model, batch)
        handle.remove()
        found += [(one.error, error.value) for one, error in zip(pairs, errors, strict=True)]
    return found


def error_of_output(original: torch.nn.Module, model: torch.nn.Module, unseen: list[Batch]) -> float:
    """Relative error on inputs that were not calibrated with."""
    error = Error()
    for batch in unseen:
        error.add(run(model, batch), run(original, batch))
    return error.value


def errors_of_output(
    model: torch.nn.Module, task: Task, seed: int, share: float, unseen: list[Batch]
) -> tuple[float, float]:
    """(predicted, measured) for the output of a model that is rewritten as users do it."""
    what = sg.ConcatToSum(budget={"flops": share - 1}, also=("linear",))
    result = planned(model, (task.example,), what, execution="separate", calibrate=task.calibration(seed), seed=seed)
    assert result.compressed is not None
    assert result.compressed.predicted is not None
    return result.compressed.predicted, error_of_output(model, result.model.eval(), unseen)


def equal_ranks(bench: Bench, layers: list[Layer], weights: dict[str, float], flops: float) -> list[Candidate]:
    """The candidates of the largest share of full rank, equal in all layers, within a limit on multiply-adds."""
    low, high = 0.0, 1.0
    best: list[Candidate] = []
    for _ in range(HALVINGS):
        share = (low + high) / 2
        picked = []
        for layer in layers:
            full = min(layer.shape[1], layer.shape[0] * layer.shape[2])
            rank = max(1, round(share * full))
            if rank <= layer.break_even("project"):
                one = candidate(bench, layer, "project", rank)
                picked.append(replace(one, harm=weights[layer.path] * one.error**2))
        if sum(one.more["flops"] for one in picked) <= flops:
            low, best = share, picked
        else:
            high = share
    return best


def with_layers(bench: Bench, candidates: list[Candidate]) -> torch.nn.Module:
    """A copy of the model with pairs of layers."""
    model = copy.deepcopy(bench.model)
    for one in candidates:
        model.set_submodule(one.path, bench.pair(one))
    return model


def measured(job: tuple[str, int]) -> dict[str, Any]:
    """Everything for one trained network."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    name, seed = job
    task = TASKS[name]
    captured = runnable(task.trained(seed), (task.example,)).eval()
    graph = drawn(captured, ((task.example,), {}))
    lossy = Lossy(task.calibration(seed), seed, lambda text: None)
    what = sg.ConcatToSum(rank=0.5, also=("linear",))
    layers = layers_of(captured, ((task.example,), {}), graph, Wanted(), what, lossy)
    seen, unseen = batches(task.calibration(seed)), batches(task.unseen(seed))
    bench = Bench(captured, gathered(captured, [layer.path for layer in layers], seen, run, seed=seed))
    row: dict[str, Any] = {"task": name, "seed": seed, "layers": errors_of_layers(bench, layers, unseen)}
    found = {layer.path: candidates_of(bench, layer) for layer in layers}
    found = weighed(bench, {path: one for path, one in found.items() if one}, seen, lambda text: None)
    weights = {path: one[0].harm / one[0].error ** 2 for path, one in found.items()}
    everything = [one for candidates in found.values() for one in candidates]
    row["outputs"] = [errors_of_output(captured, task, seed, share, unseen) for share in BUDGETS_OF_OUTPUTS]
    row["choices"] = []
    for share in BUDGETS:
        limit = (share - 1) * graph.cost.flops
        choice = chosen(everything, {"flops": limit})
        if choice is not None:
            equal = equal_ranks(bench, layers, weights, limit)
            ways = {"program": choice.chosen, "equal": equal}
            row["choices"].append({"share": share, **{
                way: outcome(bench, task, list(picked), graph.cost.flops, unseen) for way, picked in ways.items()
            }})  # fmt: skip
        print(name, seed, share, file=sys.stderr, flush=True)
    return row


def outcome(bench: Bench, task: Task, picked: list[Candidate], flops: int, unseen: list[Batch]) -> dict[str, float]:
    """What became of a choice of ranks."""
    made = with_layers(bench, picked)
    return {
        "flops": 1 + sum(one.more["flops"] for one in picked) / flops,
        "predicted": sum(one.harm for one in picked) ** 0.5,
        "measured": error_of_output(bench.model, made, unseen),
        "quality": task.quality(made),
    }


def tables(rows: list[dict[str, Any]]) -> str:
    """Both tables, in Markdown."""
    lines = ["| | pairs | Spearman | below 0.3 | of these within 2 |", "|---|---|---|---|---|"]
    for name in dict.fromkeys(row["task"] for row in rows):
        of = [row for row in rows if row["task"] == name]
        layers = [pair for row in of for pair in row["layers"]]
        outputs = [pair for row in of for pair in row["outputs"]]
        lines += [_correlation(f"{name}, layers", layers), _correlation(f"{name}, output", outputs)]
    lines += ["", "| | program ahead by its objective | error, program / equal | quality, program - equal |",
              "|---|---|---|---|"]  # fmt: skip
    for name in dict.fromkeys(row["task"] for row in rows):
        both = [one for row in rows if row["task"] == name for one in row["choices"]]
        never_worse = sum(one["program"]["predicted"] <= one["equal"]["predicted"] for one in both)
        errors = [one["program"]["measured"] / one["equal"]["measured"] for one in both]
        more = [one["program"]["quality"] - one["equal"]["quality"] for one in both]
        lines.append(
            f"| {name} ({TASKS[name].unit}) | {never_worse} of {len(both)} | {np.exp(np.mean(np.log(errors))):.2f} | "
            f"{np.mean(more):+.2f} ({min(more):+.2f} to {max(more):+.2f}) |"
        )
    return "\n".join(lines)


def _correlation(what: str, pairs: list[tuple[float, float]]) -> str:
    predicted, found = np.array(pairs).T
    small = (found < 0.3) & (found > 0)
    ratios = found[small] / predicted[small]
    within = np.mean((ratios <= 2) & (ratios >= 0.5))
    return f"| {what} | {len(pairs)} | {spearmanr(predicted, found)[0]:.3f} | {small.sum()} | {within:.1%} |"


def main() -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=list(TASKS), action="append")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    jobs = [(name, seed) for name in options.task or ("denoiser", "digits") for seed in options.seeds]
    with ProcessPoolExecutor(options.workers) as pool:
        rows = list(pool.map(measured, jobs))
    RESULTS.write_text(json.dumps({"torch": torch.__version__, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    print(tables(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
