"""The ways back from layers of lower rank: the original with its weights, and concats of what is projected."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from skipgraph import ConcatToSum
from skipgraph.emit.source import load_source, source
from skipgraph.errors import PlanError, WeightsError
from skipgraph.passes.workbench import drawn
from skipgraph.plan import Plan
from skipgraph.rewriting import Rewritten, captured, planned, rejoin, undo
from tests.compress.test_compress import IMAGE, KINDS, at_half, data, model
from tests.helpers import fixtures
from tests.helpers.rerun import redrawn
from tests.helpers.sameness import assert_same_weights, difference


def through_a_file(result: Rewritten) -> nn.Module:
    """The rewritten model as it is written out and read again."""
    alone: nn.Module = load_source(source(result.model, result.inputs, title="Factored."))["build"]()
    alone.load_state_dict(result.model.state_dict())
    return alone.eval()


def check_back(result: Rewritten, original: nn.Module) -> None:
    plan = Plan.from_json(result.plan.to_json())
    again = undo(captured(through_a_file(result), result.inputs), plan, weights=original.state_dict())
    assert difference(drawn(again, result.inputs), result.before) == ""
    assert_same_weights(again.state_dict(), original.state_dict())
    args, kwargs = result.inputs
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(*args, **kwargs), original.eval()(*args, **kwargs))


@pytest.mark.parametrize("kind", KINDS)
def test_the_original_is_restored_with_its_weights(kind: str) -> None:
    assert at_half(kind).plan.folds or kind != "transposed"
    check_back(at_half(kind), model(kind))


@pytest.mark.parametrize("name", ["densenet", "unet_plus_plus", "uvit"])
def test_fixtures_are_restored(name: str) -> None:
    fixture = fixtures.load(name)
    torch.manual_seed(0)
    original = redrawn(fixture.model_class()).eval()
    what = ConcatToSum(rank=0.25, also=("linear",))
    result = planned(original, fixture.example_inputs, what, execution="separate")
    assert result.plan.factors
    check_back(result, original)


@pytest.mark.parametrize("kind", KINDS)
def test_sums_become_concats_of_what_is_projected(kind: str) -> None:
    result = at_half(kind)
    joined = rejoin(captured(through_a_file(result), result.inputs), result.plan)
    assert drawn(joined, result.inputs).counts.concat == 1
    rank = result.plan.factors[0].rank
    assert joined.get_submodule("join.restore").weight.shape[1] == 2 * rank
    images = torch.cat(data())
    with torch.no_grad():
        torch.testing.assert_close(joined.eval()(images), result.model.eval()(images), rtol=1e-4, atol=1e-5)
    joined.train()(images).square().mean().backward()
    assert all(tensor.grad is not None for tensor in joined.parameters())


def test_what_does_not_fit_is_refused() -> None:
    result = at_half("transposed")
    wrong = {**model("transposed").state_dict(), "join.weight": torch.zeros(1, 2, 3, 3)}
    with pytest.raises(WeightsError, match="of another shape"):
        result.undo(weights=wrong)
    with pytest.raises(WeightsError, match=r"missing: first\.weight"):
        result.undo(
            weights={name: one for name, one in model("transposed").state_dict().items() if name != "first.weight"}
        )
    with pytest.raises(PlanError, match="loses what they were"):
        result.undo()
    exact = planned(model("transposed"), IMAGE, ConcatToSum(), execution="separate")
    with pytest.raises(PlanError, match="no layer was factored"):
        exact.undo(weights=model("transposed").state_dict())
    with pytest.raises(PlanError, match="no sum of projections"):
        rejoin(exact.model, exact.plan)


def test_a_sum_that_is_gone_is_told() -> None:
    class Other(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.relu()

    with pytest.raises(PlanError, match=r"join\.restore"):
        rejoin(captured(Other(), ((IMAGE,), {})), at_half("transposed").plan)
