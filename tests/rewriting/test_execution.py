"""How a rewritten model is executed: what the default leaves, what is dispatched, the form for inference."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from skipgraph import ConcatToSum, SumToConcat
from skipgraph.errors import PlanError
from skipgraph.rewriting import planned
from tests.helpers import fixtures
from tests.helpers.rerun import redrawn
from tests.helpers.sameness import batch_in_double, in_double, without_dropout

_JOINING = {"cat", "concat", "stack", "slice_scatter", "select_scatter", "copy_ into a view", "index_put_", "copy_"}


@pytest.mark.parametrize("name", ["densenet", "dual_path", "unet_plus_plus", "uvit"])
def test_the_default_leaves_what_is_not_worth_it(name: str) -> None:
    fixture = fixtures.load(name)
    result = planned(fixture.model_class(), fixture.example_inputs, ConcatToSum())
    kept = [outcome for outcome in result.plan.outcomes if outcome.status == "kept"]
    assert kept or name == "uvit"
    assert all("bytes would be moved" in outcome.reason for outcome in kept)
    assert result.after.cost.peak_bytes <= result.before.cost.peak_bytes


class Heard(TorchDispatchMode):
    """The operators that are dispatched, by name; copies into views apart."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.operators["copy_ into a view" if name == "copy_" and args[0]._is_view() else name] += 1
        return func(*args, **(kwargs or {}))


def test_nothing_is_joined_in_a_densenet() -> None:
    densenet = pytest.importorskip("torchvision.models").DenseNet
    blocks = (4, 6, 8, 6)
    model, x = densenet(growth_rate=8, block_config=blocks, num_init_features=16), torch.randn(1, 3, 64, 64)
    result = planned(model, (x,), ConcatToSum(), execution="separate")
    statuses = Counter(outcome.status for outcome in result.plan.outcomes)
    assert statuses == {"rewritten": sum(blocks)}
    assert result.after.counts.concat == 0
    before, after = (Counter(graph.cost.flops_by_operator) for graph in (result.before, result.after))
    assert before["convolution"] == after["convolution"]
    assert before["addmm"] == after["addmm"] + after["mm"]  # only one part of the classifier has its bias
    multiplied = []
    for training in (False, True):
        for one in (model, result.model):
            there = copy.deepcopy(one).to("meta").train(training)
            with Heard() as heard, FlopCounterMode(display=False) as counted:
                there(torch.empty(2, 3, 64, 64, device="meta"))
            joined = {name for name in heard.operators if name in _JOINING}
            assert joined == ({"cat"} if one is model else set())
            multiplied.append(counted.get_total_flops())
    assert len(set(multiplied)) == 1


@pytest.mark.parametrize("name", ["densenet", "unet_sum", "unet_plus_plus", "uvit"])
def test_the_form_for_inference_computes_the_same(name: str) -> None:
    torch.manual_seed(0)
    fixture = fixtures.load(name)
    model = without_dropout(redrawn(fixture.model_class())).eval()
    what = SumToConcat() if name == "unet_sum" else ConcatToSum()
    result = planned(model, in_double(fixture.example_inputs), what, execution="separate", inference=True)
    args, _ = batch_in_double(result.inputs)
    with torch.no_grad():
        wanted, ours = model(*args), result.model.eval()(*args)
    assert float((ours - wanted).abs().max()) <= 1e-10 * float(wanted.abs().max())
    assert not any(one.requires_grad for one in result.model.parameters())
    with pytest.raises(PlanError, match="for inference"):
        result.undo()
