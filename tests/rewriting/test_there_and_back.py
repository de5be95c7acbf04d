"""There and back: a rewrite undone is the original, and a training step between the two is that step."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from skipgraph import ConcatToSum, SumToConcat
from skipgraph.capture import runnable
from skipgraph.emit.source import load_source, source
from skipgraph.errors import PlanError
from skipgraph.passes.workbench import drawn
from skipgraph.plan import Plan
from skipgraph.rewriting import apply, planned, undo
from tests.helpers import fixtures
from tests.helpers.rerun import redrawn
from tests.helpers.sameness import (
    assert_same_weights,
    batch_in_double,
    difference,
    furthest,
    in_double,
    take_step,
    without_dropout,
)

if TYPE_CHECKING:
    from skipgraph.capture import Captured
    from skipgraph.rewriting import Rewritten

SMALLER: dict[str, dict[str, int]] = {"unet": {"width": 8}}
SLOW = {"unet_crop", "unet3d"}  # large examples: their steps are taken by benchmarks/there_and_back.py
WAYS: dict[str, tuple[Any, Any]] = {
    "concat to sum": (ConcatToSum(), "separate"),
    "model": (ConcatToSum(), "model"),
    "sum to concat": (SumToConcat(), "separate"),
    "with identities": (SumToConcat(allow_identity=True), "separate"),
    "in evaluation": (SumToConcat(eval_only=True), "separate"),
}
# Every fixture in one of the ways; benchmarks/there_and_back.py goes through all of them, and public models.
IN_ONE_WAY = {
    "concat to sum": (
        "aspp", "attention_unet", "csp", "densenet", "dla", "dual_path", "unet", "unet_crop", "unet_plus_plus", "uvit",
    ),
    "sum to concat": (
        "conditioned_unet", "fcn8s", "fpn", "parallel_attention", "rcan", "scalar_gates", "space_to_depth",
        "stochastic_depth", "transformer_decoder", "transformer_encoder", "unet3d",
    ),
    "with identities": ("highway", "hrnet", "lstm_unrolled", "poolformer", "squeeze_excitation", "wavenet"),
    "in evaluation": ("resnet", "unet_sum"),
}  # fmt: skip
BY_SOURCE = {
    "concat to sum": ("densenet", "dual_path", "uvit"),
    "model": ("densenet", "dla"),
    "sum to concat": ("unet_sum", "fcn8s", "rcan"),
    "with identities": ("highway", "poolformer", "space_to_depth"),
    "in evaluation": ("rcan", "fcn8s"),
}


def pairs(names: dict[str, tuple[str, ...]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("name", "way"), [(name, way) for way, found in names.items() for name in found])


@cache
def rewritten(name: str, way: str) -> Rewritten:
    """A fixture in float64, its weights redrawn, rewritten."""
    torch.manual_seed(0)
    fixture = fixtures.load(name)
    model = without_dropout(redrawn(fixture.model_class(**SMALLER.get(name, {}))))
    what, execution = WAYS[way]
    result = planned(model, in_double(fixture.example_inputs), what, execution=execution)
    assert any(result.plan.records.values())
    return result


def emitted(name: str, way: str) -> nn.Module:
    """The rewritten model, written out, executed and given its weights."""
    result = rewritten(name, way)
    alone: nn.Module = load_source(source(result.model, result.inputs, title="Rewritten."))["build"]()
    alone.load_state_dict(result.model.state_dict())
    return alone


def assert_is_the_original(back: Captured, result: Rewritten) -> None:
    assert_same_weights(back.state_dict(), result.original.state_dict())
    for training in (False, True):
        ours, theirs = (drawn(one, result.inputs, train=training) for one in (back, result.original))
        assert difference(ours, theirs) == ""


@pairs(IN_ONE_WAY)
def test_there_and_back(name: str, way: str) -> None:
    result = rewritten(name, way)
    before = {key: tensor.clone() for key, tensor in result.model.state_dict().items()}
    plan = Plan.from_json(result.plan.to_json())
    assert plan == result.plan
    assert plan.to_json() == result.plan.to_json()
    assert_is_the_original(undo(result.model, plan), result)
    assert_same_weights(result.model.state_dict(), before)
    if name not in SLOW:
        model = result.model.copy()
        take_step(model, batch_in_double(result.inputs))
        assert_is_that_step(model, result)


@pairs(BY_SOURCE)
def test_there_and_back_by_way_of_a_source(name: str, way: str) -> None:
    result = rewritten(name, way)
    model = emitted(name, way)
    captured = runnable(model, *result.inputs)
    assert_is_the_original(undo(captured, Plan.from_json(result.plan.to_json())), result)
    take_step(model, batch_in_double(result.inputs))
    assert_is_that_step(runnable(model, *result.inputs), result)


def assert_is_that_step(model: Captured, result: Rewritten) -> None:
    """A step taken on the rewritten model, undone, is the step on the original."""
    assert {key for key, one in model.named_parameters() if one.grad is None} == set()
    original = result.original.copy()
    take_step(original, batch_in_double(result.inputs))
    off, where = furthest(undo(model, result.plan).state_dict(), original.state_dict(), result.original.state_dict())
    assert off <= 1e-10, where


@pytest.mark.parametrize(
    ("name", "way"),
    [("densenet", "concat to sum"), ("dla", "model"), ("uvit", "concat to sum"), ("rcan", "sum to concat"),
     ("rcan", "in evaluation"), ("highway", "with identities")],
)  # fmt: skip
def test_another_checkpoint_is_rewritten_as_the_plan_says(name: str, way: str) -> None:
    result = rewritten(name, way)
    torch.manual_seed(7)
    fixture = fixtures.load(name)
    other, inputs = without_dropout(fixture.model_class()), in_double(fixture.example_inputs)
    what, execution = WAYS[way]
    again = apply(other, inputs, Plan.from_json(result.plan.to_json()), verified=way == "concat to sum")
    wanted = planned(other, inputs, what, execution=execution)
    assert_same_weights(again.model.state_dict(), wanted.model.state_dict())
    done, planned_so = ({one.id for one in each.plan.outcomes if one.status == "rewritten"} for each in (again, result))
    assert done == planned_so
    assert difference(again.after, result.after) == ""


def test_a_plan_is_for_its_own_model() -> None:
    plan = rewritten("densenet", "concat to sum").plan
    with pytest.raises(PlanError):
        undo(rewritten("fcn8s", "sum to concat").model, plan)
    with pytest.raises(PlanError, match="another model"):
        apply(nn.Linear(2, 2), torch.empty(1, 2), plan)
