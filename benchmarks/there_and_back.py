"""There and back: every rewrite of every fixture and of some public models, undone, and compared with the original.

    python benchmarks/there_and_back.py [NAME …]

For each model and rewrite: whether the undone graphs of evaluation and training are isomorphic to the original's after
canonicalisation, with bit-identical weights, from the rewritten model itself and from its emitted source; and by how
much the weights differ, in parts of each tensor's largest, if one step of SGD (float64, rate 0.1, three samples) was
taken between the two. The table is written to benchmarks/results/there_and_back.txt; exits with 1 if a row fails.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from models import _made, _segmentation, _timm, _torchvision
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

import skipgraph as sg
from skipgraph.capture import Captured, runnable
from skipgraph.emit import emitted
from skipgraph.passes.workbench import drawn
from skipgraph.plan import Plan
from skipgraph.rewriting import Rewritten, planned, undo
from tests.helpers import fixtures
from tests.helpers.rerun import redrawn
from tests.helpers.sameness import (
    assert_same_weights,
    batch_in_double,
    difference,
    furthest,
    take_step,
    without_dropout,
)

TOLERANCE = 1e-10
WAYS: dict[str, tuple[Any, Any]] = {
    "concat to sum, separate": (sg.ConcatToSum(), "separate"),
    "concat to sum, model": (sg.ConcatToSum(), "model"),
    "sum to concat": (sg.SumToConcat(), "separate"),
    "with identities": (sg.SumToConcat(allow_identity=True), "separate"),
    "in evaluation": (sg.SumToConcat(eval_only=True), "separate"),
}
SMALLER: dict[str, dict[str, int]] = {"unet": {"width": 8}}
PUBLIC: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "densenet121": (_torchvision("densenet121"), (1, 3, 64, 64)),
    "smp Unet": (_segmentation("Unet", "resnet18"), (1, 3, 64, 64)),
    "smp UnetPlusPlus": (_segmentation("UnetPlusPlus", "resnet18"), (1, 3, 64, 64)),
    "timm dla34": (_timm("dla34"), (1, 3, 64, 64)),
    "monai BasicUNet": (_made("monai.networks.nets", "BasicUNet", spatial_dims=2), (1, 1, 64, 64)),
}
HEAD = f"{'model':20} {'rewrite':24} {'sites':>5} {'undone':>8} {'emitted':>8} {'step':>8} {'emitted':>8} {'s':>6}"


@dataclass(frozen=True)
class Row:
    """What became of one rewrite of one model."""

    text: str
    failures: tuple[str, ...]


def main() -> int:
    """Print the table; 1 if anything is not as it was."""
    torch.set_num_threads(1)
    names = sys.argv[1:] or [*fixtures.names(), *PUBLIC]
    lines, failures, rows = [f"torch {torch.__version__}, CPU, float64", "", HEAD], [], 0
    print(HEAD)
    for name in names:
        model, inputs = built(name)
        found = [one for way in WAYS if (one := row(name, way, model, inputs)) is not None]
        for one in found:
            print(one.text, *(f"    {failure}" for failure in one.failures), sep="\n", flush=True)
            lines += [one.text, *(f"    {failure}" for failure in one.failures)]
            failures += one.failures
        rows += len(found)
    lines += ["", f"{rows} rewrites there and back, {len(failures)} failures"]
    print(lines[-1])
    if not sys.argv[1:]:
        (Path(__file__).parent / "results" / "there_and_back.txt").write_text("\n".join(lines) + "\n")
    return 1 if failures else 0


def built(name: str) -> tuple[nn.Module, Any]:
    """A model in float64 with weights drawn anew, and its example inputs."""
    torch.manual_seed(0)
    if name in PUBLIC:
        build, shape = PUBLIC[name]
        model, inputs = build(), (torch.randn(shape),)
    else:
        fixture = fixtures.load(name)
        model, inputs = fixture.model_class(**SMALLER.get(name, {})), fixture.example_inputs
    return without_dropout(redrawn(model)), inputs


def row(name: str, way: str, model: nn.Module, inputs: Any) -> Row | None:
    """One line of the table; None if there is nothing to rewrite."""
    started = time.perf_counter()
    what, execution = WAYS[way]
    result = planned(model, in_double(inputs), what, execution=execution)
    sites = sum(outcome.status == "rewritten" for outcome in result.plan.outcomes)
    if not sites:
        return None
    failures: list[str] = []
    plan = Plan.from_json(result.plan.to_json())
    if plan != result.plan:
        failures.append("the plan's JSON is another plan")
    alone: list[nn.Module] = []

    def again() -> Captured:
        alone.append(emitted(result.model, result.inputs, title=name).model)
        return runnable(alone[0], *result.inputs)

    cells = [cell(failures, lambda: unlike(result, result.model, plan))]
    cells.append(cell(failures, lambda: unlike(result, again(), plan)))
    trained = [result.model.copy(), *alone]
    original = result.original.copy()
    batch = batch_in_double(result.inputs)
    take_step(original, batch)
    cells += [cell(failures, lambda one=one: after_step(result, original, one, batch, plan)) for one in trained]
    cells += ["-"] * (4 - len(cells))
    seconds = time.perf_counter() - started
    shown = " ".join(f"{one:>8}" for one in cells)
    return Row(f"{name:20} {way:24} {sites:5} {shown} {seconds:6.1f}", tuple(failures))


def in_double(inputs: Any) -> Any:
    """The inputs in float64."""
    if isinstance(inputs, dict):
        return {name: in_double((tensor,))[0] for name, tensor in inputs.items()}
    return tuple(tensor.double() if tensor.is_floating_point() else tensor for tensor in inputs)


def cell(failures: list[str], check: Callable[[], str]) -> str:
    """What a check says; whatever goes wrong in it is a failure."""
    try:
        return check()
    except Exception as error:
        failures.append(f"{type(error).__name__}: {str(error)[:400]}")
        return "FAILED"


def unlike(result: Rewritten, rewritten: Captured, plan: Plan) -> str:
    """Undo, and compare graphs and weights with the original's."""
    back = undo(rewritten, plan)
    assert_same_weights(back.state_dict(), result.original.state_dict())
    for training in (False, True):
        graphs = (drawn(one, result.inputs, train=training) for one in (back, result.original))
        differs = difference(*graphs)
        assert not differs, f"{'training' if training else 'evaluation'}: {differs}"
    return "same"


def after_step(result: Rewritten, original: Captured, model: nn.Module, batch: Any, plan: Plan) -> str:
    """Take a step on the rewritten model, undo, and compare with the step on the original."""
    take_step(model, batch)
    captured = model if isinstance(model, Captured) else runnable(model, *result.inputs)
    back = undo(captured, plan).state_dict()
    off, where = furthest(back, original.state_dict(), result.original.state_dict())
    assert off <= TOLERANCE, f"{where} is off by {off:.1e} after a step"
    return f"{off:.1e}"


if __name__ == "__main__":
    sys.exit(main())
