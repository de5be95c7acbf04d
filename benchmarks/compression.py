"""Projected sums against what people use: quality for multiply-adds, on two trained networks.

    python benchmarks/compression.py [--task denoiser] [--seeds 0 1 2] [--shares 0.75 0.5 0.85 0.6] [--workers 2]

The recipe (networks, data, training) is ``compression_task.py``. Every method gets the same trained networks, the same
calibration inputs and the same multiply-adds, which skipgraph counts:

- *a*, *b*, *c*: projected sums at the concats, by the weights alone, by the moments of the layers' inputs, and in turn
  by what the rewritten model gives each layer; with ``+`` all other layers may be factored too (``--also linear``).
- *blind*: what BALF does (arXiv 2509.25136): every layer on its own is factored by the whitened SVD of its weight, and
  the ranks are chosen for the budget by the energy that each layer loses. It knows nothing of concats, of later layers,
  or of the output.
- *Torch-Pruning*: group norm and group Taylor, the ratio the same in each layer or chosen over all layers.

Quality is measured as it comes, with the statistics of batch norms taken anew, and after the same short fine-tuning.
The numbers go to ``benchmarks/results/compression.json``, after each share of each network: what is there already is
not measured again (``--anew`` starts from nothing). ``compression_table.py`` makes the tables and the plot of
``docs/compression.md`` of them. Takes about three hours of one core. Needs the extra ``benchmarks``.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch
import torch_pruning
from compression_task import TASKS, Task
from torch import nn

import skipgraph as sg
from skipgraph.capture import runnable
from skipgraph.compress.choose import Candidate, chosen
from skipgraph.compress.factor import Factoring, full_rank
from skipgraph.compress.layers import pair, weight_of
from skipgraph.compress.measured import run
from skipgraph.compress.moments import gathered
from skipgraph.compress.recalibrate import taken_anew
from skipgraph.compress.sites import Sites
from skipgraph.rewriting import planned

RESULTS = Path(__file__).parent / "results" / "compression.json"
METHODS = {"a": "svd", "b": "moments", "c": "compensated"}
RANKS = 16
STEPS_OF_BISECTION = 12


def flops(model: nn.Module, task: Task) -> int:
    """Multiply-adds, as skipgraph counts them for everybody."""
    return sg.trace(model, (task.example,)).cost.flops


def projected(model: nn.Module, task: Task, share: float, seed: int, name: str) -> nn.Module:
    """Projected sums by skipgraph."""
    method = METHODS[name[0]]
    what = sg.ConcatToSum(budget={"flops": share - 1}, also=("linear",) if "+" in name else (), method=method)
    data = None if method == "svd" else task.calibration(seed)
    return planned(model, (task.example,), what, execution="separate", calibrate=data, seed=seed).model.eval()


def blind(model: nn.Module, task: Task, share: float, seed: int, name: str) -> nn.Module:
    """Every layer on its own by a whitened SVD, ranks by the energy that each loses."""
    captured = runnable(model, (task.example,))
    layers = Sites(captured, {}, biased=True).layers([], lambda path: True)
    made = copy.deepcopy(model).eval()
    data = [((inputs,), {}) for inputs in task.calibration(seed)]
    seen = gathered(made, [layer.path for layer in layers], data, run, seed=seed)
    found: dict[tuple[str, int], Any] = {}
    candidates = []
    for layer in layers:
        weight = weight_of(made.get_submodule(layer.path))
        moments = seen[layer.path].moments(weight)
        factoring = Factoring(weight, "restore", moments)
        even = min(layer.break_even("restore"), full_rank(weight, "restore"))
        for rank in sorted({max(1, round(even * step / RANKS)) for step in range(1, RANKS + 1)}) if even else ():
            factors = factoring.at(rank)
            more = layer.price(rank, "restore")[0]
            candidates.append(Candidate(layer.path, "restore", rank, factors.error, factors.error**2, {"flops": more}))
            found[layer.path, rank] = factors
    choice = chosen(candidates, {"flops": (share - 1) * flops(model, task)})
    assert choice is not None
    for one in choice.chosen:
        module: Any = made.get_submodule(one.path)
        factors = found[one.path, one.rank]
        offset = seen[one.path].offset(weight_of(module), factors.product())
        bias = offset if module.bias is None else module.bias.detach().double().numpy() + offset
        made.set_submodule(one.path, pair(module, factors, bias))
    return made


def pruned(model: nn.Module, task: Task, share: float, seed: int, name: str) -> nn.Module:
    """Torch-Pruning at the ratio whose multiply-adds are nearest below the share."""
    wanted = share * flops(model, task)
    low, high, best = 0.0, 1.0, None
    for _ in range(STEPS_OF_BISECTION):
        ratio = (low + high) / 2
        made = _pruned(model, task, seed, ratio, taylor="Taylor" in name, everywhere="global" in name)
        if flops(made, task) <= wanted:
            high, best = ratio, made
        else:
            low = ratio
    assert best is not None
    return best


def _pruned(model: nn.Module, task: Task, seed: int, ratio: float, *, taylor: bool, everywhere: bool) -> nn.Module:
    made = copy.deepcopy(model).eval()
    kinds = torch_pruning.importance
    importance = kinds.GroupTaylorImportance() if taylor else kinds.GroupMagnitudeImportance(p=2)
    head = next(layer for name, layer in made.named_modules() if name == "head")
    pruner = torch_pruning.pruner.MetaPruner(
        made, task.example, importance, global_pruning=everywhere, pruning_ratio=ratio, ignored_layers=[head]
    )
    if taylor:
        for number, (inputs, labels) in enumerate(task.batches(seed, True)):
            if number == 8:
                break
            task.loss(made(inputs), labels).backward()
    pruner.step()
    for parameter in made.parameters():
        parameter.grad = None
    return made


PEERS: dict[str, Callable[[nn.Module, Task, float, int, str], nn.Module]] = {
    "blind": blind,
    **{
        f"Torch-Pruning {kind} {scope}": pruned
        for kind in ("norm", "Taylor") for scope in ("local", "global")
    },
}  # fmt: skip
OURS = dict.fromkeys(("a", "b", "c", "a+", "b+", "c+"), projected)


Job = tuple[str, int, float]  # task, seed, share of the multiply-adds


def rows(job: Job) -> list[dict[str, Any]]:
    """All methods for one network, seed and share; the share 1.0 is the network as it was trained."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    name, seed, share = job
    task = TASKS[name]
    model = task.trained(seed)
    if share == 1:
        return [{"task": name, "seed": seed, "method": "original", "share": 1.0, "as it comes": task.quality(model)}]
    whole, found = flops(model, task), []
    for method, make in {**OURS, **PEERS}.items():
        torch.manual_seed(seed)
        started = time.monotonic()
        row: dict[str, Any] = {"task": name, "seed": seed, "method": method, "share": share}
        try:
            made = make(model, task, share, seed, method)
        except sg.SkipgraphError as error:
            row["n/a"] = error.message
        else:
            row |= {"flops": flops(made, task) / whole, "seconds": time.monotonic() - started}
            row |= dict(qualities(made, task, seed))
        found.append(row)
        print(json.dumps(row), file=sys.stderr, flush=True)
    return found


def qualities(model: nn.Module, task: Task, seed: int) -> Iterator[tuple[str, float]]:
    """As it comes, with batch norms taken anew, and after the short fine-tuning."""
    yield "as it comes", task.quality(model)
    anew = copy.deepcopy(model)
    taken_anew(anew, [((inputs,), {}) for inputs in task.calibration(seed)], run)
    yield "norms anew", task.quality(anew)
    task.train(model, seed, fine=True)
    yield "fine-tuned", task.quality(model)


def main() -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=list(TASKS), action="append")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--shares", type=float, nargs="+", default=[0.75, 0.5, 0.85, 0.6])
    parser.add_argument("--anew", action="store_true", help="measure everything again")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    found: list[dict[str, Any]] = []
    if RESULTS.is_file() and not options.anew:
        found = json.loads(RESULTS.read_text(encoding="utf-8"))["rows"]
    known = {(row["task"], row["seed"], row["share"]) for row in found}
    names = options.task or ["denoiser", "digits"]
    with ProcessPoolExecutor(options.workers) as pool:
        for shares in ([1.0], options.shares):  # networks are trained before they are shared
            jobs = [(name, seed, share) for share in shares for seed in options.seeds for name in names]
            waiting = [pool.submit(rows, job) for job in jobs if job not in known]
            for done in as_completed(waiting):
                found += done.result()
                order = sorted(found, key=lambda row: (row["task"], row["seed"], -row["share"]))
                text = json.dumps({"torch": torch.__version__, "rows": order}, indent=1)
                RESULTS.write_text(text + "\n", encoding="utf-8")
    print(RESULTS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
