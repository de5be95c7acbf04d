"""There and back: a rewrite undone is the original, and a training step between the two is that step."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from skipgraph import ConcatToSum, SumToConcat
from skipgraph.capture.trees import map_tensors, tensors
from skipgraph.errors import NothingToRewriteError, PlanError
from skipgraph.passes.workbench import drawn
from skipgraph.plan import Plan
from skipgraph.rewriting import apply, planned, rewrite, undo
from tests.helpers import fixtures
from tests.rewriting.canonical import same

if TYPE_CHECKING:
    from skipgraph.capture import Captured

QUICK: dict[str, dict[str, int]] = {"unet": {"width": 8}, "unet_crop": {}, "unet3d": {}}
SLOW = {"unet_crop", "unet3d"}  # large examples: their steps are taken by benchmarks/there_and_back.py
REWRITES = {
    "concat to sum": (ConcatToSum(), "separate"),
    "sum to concat": (SumToConcat(), "separate"),
    "with identities": (SumToConcat(allow_identity=True), "separate"),
    "in evaluation": (SumToConcat(eval_only=True), "separate"),
}


def loaded(name: str) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    fixture = fixtures.load(name)
    return fixture.model_class(**QUICK.get(name, {})), fixture.example_inputs


@pytest.mark.parametrize("kind", REWRITES)
@pytest.mark.parametrize("name", fixtures.names())
def test_undone_is_the_original(name: str, kind: str) -> None:
    model, inputs = loaded(name)
    what, execution = REWRITES[kind]
    result = planned(model, inputs, what, execution=execution)
    if not any(result.plan.records.values()):
        pytest.skip("nothing to rewrite")
    back = undo(result.model, Plan.from_json(result.plan.to_json()))
    wanted = result.original.state_dict()
    assert list(back.state_dict()) == list(wanted)
    assert all(torch.equal(tensor, wanted[key]) for key, tensor in back.state_dict().items())
    for training in (False, True):
        assert same(drawn(back, result.inputs, train=training), drawn(result.original, result.inputs, train=training))


@pytest.mark.parametrize("kind", list(REWRITES)[:3])
@pytest.mark.parametrize("name", [name for name in fixtures.names() if name not in SLOW])
def test_a_step_between_is_that_step(name: str, kind: str) -> None:
    model, inputs = loaded(name)
    what, execution = REWRITES[kind]
    result = planned(model.double(), in_double(inputs), what, execution=execution)
    if not any(result.plan.records.values()):
        pytest.skip("nothing to rewrite")
    original = copy.deepcopy(result.original)
    step(original, result.inputs)
    step(result.model, result.inputs)
    back = undo(result.model, result.plan).state_dict()
    largest = max(float(tensor.abs().max()) for tensor in back.values() if tensor.is_floating_point())
    for key, tensor in original.state_dict().items():
        torch.testing.assert_close(back[key], tensor, rtol=1e-9, atol=1e-10 * largest, msg=lambda m, k=key: f"{k}: {m}")


def in_double(tree: Any) -> Any:
    return map_tensors(lambda one: one.double() if one.is_floating_point() else one, tree)


def step(model: Captured, inputs: Any) -> None:
    """One step of SGD on three samples, dropout off."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    args, kwargs = map_tensors(lambda one: torch.cat([one, one.flip(-1), one.roll(1, -1)]), inputs)
    model.train()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    torch.manual_seed(1)
    loss = sum(one.square().mean() for one in tensors(model(*args, **kwargs)))
    assert isinstance(loss, torch.Tensor)
    loss.backward()
    optimiser.step()


def test_the_users_model_is_left_alone() -> None:
    model, inputs = loaded("densenet")
    model.train()
    state = copy.deepcopy(model.state_dict())
    result = rewrite(model, inputs, ConcatToSum(), execution="separate")
    assert model.training
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())
    mine = {id(tensor) for tensor in model.state_dict(keep_vars=True).values()}
    assert not mine & {id(tensor) for tensor in result.model.state_dict(keep_vars=True).values()}


def test_what_is_not_asked_for_stays() -> None:
    model, inputs = loaded("unet")
    frozen = dict(model.named_parameters())["decoder.0.conv.0.weight"].requires_grad_(False)
    result = planned(model, inputs, ConcatToSum(), only=["decoder.0"], execution="separate")
    parameters = dict(result.model.named_parameters())
    assert not parameters["decoder.0.conv.0.1.weight"].requires_grad
    assert not frozen.requires_grad
    touched = {name for name in parameters if name not in dict(model.named_parameters())}
    assert touched == {"decoder.0.conv.0.0.weight", "decoder.0.conv.0.1.weight"}
    assert [outcome.status for outcome in result.plan.outcomes] == ["rewritten", *["excluded"] * 3]


def test_another_checkpoint() -> None:
    model, inputs = loaded("densenet")
    plan = Plan.from_json(planned(model, inputs, ConcatToSum(), execution="separate").plan.to_json())
    torch.manual_seed(7)
    other = fixtures.load("densenet").model_class()
    result = apply(other, inputs, plan)
    assert result.verification is not None
    wanted = planned(other, inputs, ConcatToSum(), execution="separate").model.state_dict()
    assert all(torch.equal(tensor, wanted[key]) for key, tensor in result.model.state_dict().items())
    with pytest.raises(PlanError, match="another model"):
        apply(nn.Linear(2, 2), torch.empty(1, 2), plan)


def test_patterns_that_match_nothing() -> None:
    model, inputs = loaded("unet")
    with pytest.raises(NothingToRewriteError, match="no skip and no module matches 'nowhere'"):
        rewrite(model, inputs, ConcatToSum(), only=["nowhere"])
    with pytest.raises(NothingToRewriteError, match="nothing to rewrite"):
        rewrite(model, inputs, ConcatToSum(), skip=["*"])


def test_the_default_is_never_larger() -> None:
    for name in ("densenet", "dual_path", "unet_plus_plus", "uvit"):
        model, inputs = loaded(name)
        result = planned(model, inputs, ConcatToSum())
        assert result.after.cost.peak_bytes <= result.before.cost.peak_bytes


def test_the_form_for_inference_cannot_be_undone() -> None:
    model, inputs = loaded("unet")
    result = rewrite(model, inputs, ConcatToSum(), inference=True)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in result.model.modules())
    with pytest.raises(PlanError, match="for inference"):
        result.undo()
