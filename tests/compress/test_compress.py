"""Concats become sums of fewer channels: what is proved, what is predicted, what it costs, what is refused."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipgraph import ConcatToSum
from skipgraph.emit.source import load_source, source
from skipgraph.errors import BudgetError, InputError, PlanError, UsageError
from skipgraph.plan import Plan
from skipgraph.rewriting import Rewritten, apply, planned, rewrite
from tests.helpers.rerun import redrawn

if TYPE_CHECKING:
    from collections.abc import Callable


class Level(nn.Module):
    """One level of a U-Net: a skip past a coarser scale, joined by a concat in front of two readers."""

    def __init__(self, up: str, width: int = 8) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.coarse = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.up = (
            nn.ConvTranspose2d(2 * width, width, 2, stride=2) if up == "transposed" else nn.Upsample(scale_factor=2)
        )
        self.norm = nn.BatchNorm2d(2 * width) if up == "normed" else nn.Identity()
        self.between = up == "normed"
        channels = width + (width if up == "transposed" else 2 * width)
        self.join = nn.Conv2d(channels, width, 3, padding=1)
        self.last = nn.Conv2d(width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.first(x).relu()
        x = self.up(self.coarse(F.max_pool2d(skip, 2)).relu())
        if self.between:
            x = self.norm(x).relu()
        return self.last(self.join(torch.cat([skip, x], 1)).relu())


IMAGE = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
KINDS = ("transposed", "resampled", "normed")


def data(count: int = 6, seed: int = 1) -> list[Tensor]:
    """Smooth images whose channels have much in common."""
    generator = torch.Generator().manual_seed(seed)
    smooth = F.avg_pool2d(torch.randn(count * 8, 1, 20, 20, generator=generator), 5, stride=1)
    colours = smooth * torch.tensor([1.0, 0.5, -1.0])[None, :, None, None]
    return list((colours + 0.05 * torch.randn(colours.shape, generator=generator)).split(8))


@cache
def model(kind: str) -> nn.Module:
    torch.manual_seed(0)
    return redrawn(Level(kind)).eval()


@cache
def at_half(kind: str) -> Rewritten:
    return rewrite(model(kind), IMAGE, ConcatToSum(rank=0.25), execution="separate", calibrate=data())


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_added_up_has_the_channels_of_the_rank(kind: str) -> None:
    result = at_half(kind)
    (layer,) = result.compressed.layers  # type: ignore[union-attr]
    assert layer.path == "join"
    assert result.after.counts.concat == 0
    (total,) = [data for _, data in result.after.nodes(data=True) if data["kind"] == "sum"]
    assert total["shape"][1] == layer.rank
    assert result.verification is not None
    assert all(check.error <= check.tolerance for check in result.verification.checks if hasattr(check, "tolerance"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rank", [1, 3, 5])
def test_the_price_is_that_of_the_graph(kind: str, rank: int) -> None:
    result = planned(model(kind), IMAGE, ConcatToSum(rank=rank), execution="separate")
    (layer,) = result.compressed.layers  # type: ignore[union-attr]
    assert result.after.cost.flops - result.before.cost.flops == layer.flops
    assert result.after.cost.parameters - result.before.cost.parameters == layer.parameters


def test_projections_are_made_where_they_are_cheap() -> None:
    resampled = at_half("resampled").model.code()
    assert resampled.index('"1")(relu') < resampled.index("self.up(")  # law 6: before the channels are upsampled
    for kind in KINDS:
        code = at_half(kind).model.code()
        assert code.index('project, "0")') < code.index("self.coarse(")  # at the fork
    assert at_half("transposed").model.up.out_channels == at_half("transposed").compressed.layers[0].rank  # type: ignore[union-attr]
    assert at_half("normed").model.get_submodule("join.project.1").weight.shape[1] == 16


@pytest.mark.parametrize("kind", KINDS)
def test_the_skip_is_held_in_fewer_channels(kind: str) -> None:
    wide, thin = model(kind), at_half(kind)
    exact = planned(wide, IMAGE, ConcatToSum(), execution="separate")
    held = [
        max(data["bytes_out"] for _, data in one.after.nodes(data=True) if data["kind"] == "sum")
        for one in (exact, thin)
    ]
    assert held[1] < held[0]
    assert thin.after.cost.peak_bytes <= exact.after.cost.peak_bytes


@pytest.mark.parametrize("kind", KINDS)
def test_the_error_is_predicted(kind: str) -> None:
    compressed = at_half(kind).compressed
    assert compressed is not None
    (layer,) = compressed.layers
    assert layer.measured == pytest.approx(layer.predicted, rel=0.3, abs=1e-3)
    assert compressed.measured == pytest.approx(compressed.predicted, rel=0.5, abs=1e-3)


def output_error(result: Rewritten, original: nn.Module, inputs: list[Tensor]) -> float:
    with torch.no_grad():
        ours, theirs = (torch.cat([one.eval()(x) for x in inputs]) for one in (result.model, original))
    return float((ours - theirs).norm() / (theirs - theirs.mean((0, 2, 3), keepdim=True)).norm())


@pytest.mark.parametrize("kind", KINDS)
def test_data_helps(kind: str) -> None:
    held_out, errors = data(4, seed=7), []
    for method in ("svd", "moments", "compensated"):
        what = ConcatToSum(rank=4, method=method)
        result = planned(model(kind), IMAGE, what, execution="separate", calibrate=None if method == "svd" else data())
        errors.append(output_error(result, model(kind), held_out))
    assert errors[1] < errors[0]
    assert errors[2] < 1.1 * errors[1]


def test_later_layers_make_good_what_earlier_ones_spoil() -> None:
    held_out = data(4, seed=7)
    what = {"budget": {"flops": -0.5}, "also": ("linear",)}
    ours, alone = (
        output_error(
            planned(model("normed"), IMAGE, ConcatToSum(method=method, **what), calibrate=data()),
            model("normed"),
            held_out,
        )  # type: ignore[arg-type]
        for method in ("compensated", "moments")
    )
    assert ours < alone


@pytest.mark.parametrize("budget", [{"flops": -0.2}, {"parameters": -0.3}, {"flops": -0.1, "parameters": -0.25}])
def test_a_budget_is_met(budget: dict[str, float]) -> None:
    result = rewrite(model("transposed"), IMAGE, ConcatToSum(budget=budget, also=("linear",)), calibrate=data())
    before, after = result.before.cost, result.after.cost
    for name, share in budget.items():
        assert getattr(after, name) <= (1 + share) * getattr(before, name) + 1
    assert result.compressed is not None
    assert result.compressed.gap <= 1e-3


def test_an_error_is_kept_to() -> None:
    for error in (0.3, 0.15):
        what = ConcatToSum(max_error=error, also=("linear",))
        compressed = planned(model("transposed"), IMAGE, what, calibrate=data()).compressed
        assert compressed is not None
        for layer in compressed.layers:
            assert layer.predicted <= error
            assert layer.measured == pytest.approx(layer.predicted, rel=0.3, abs=2e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_it_trains_and_is_written_out(kind: str) -> None:
    result = at_half(kind)
    trained = result.model.copy().train()
    before = {name: tensor.clone() for name, tensor in trained.named_parameters()}
    optimiser = torch.optim.SGD(trained.parameters(), lr=0.1)
    trained(torch.cat(data())).square().mean().backward()
    optimiser.step()
    assert [name for name, tensor in trained.named_parameters() if torch.equal(before[name], tensor)] == []
    alone = load_source(source(result.model, result.inputs, title="Factored."))["build"]()
    alone.load_state_dict(result.model.state_dict())
    x = torch.cat(data())
    torch.testing.assert_close(alone.eval()(x), result.model.eval()(x))


def test_a_plan_is_applied_to_another_checkpoint() -> None:
    result = at_half("transposed")
    plan = Plan.from_json(result.plan.to_json())
    assert plan == result.plan
    torch.manual_seed(5)
    other = redrawn(Level("transposed")).eval()
    again = apply(other, IMAGE, plan, calibrate=data())
    assert [(one.path, one.form, one.rank) for one in again.plan.factors] == [
        (one.path, one.form, one.rank) for one in plan.factors
    ]
    assert again.after.cost.flops == result.after.cost.flops
    with pytest.raises(PlanError, match="calibration data"):
        apply(other, IMAGE, plan)
    with pytest.raises(PlanError, match="loses what they were"):
        result.undo()


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (lambda: ConcatToSum(rank=0), "0 is no rank"),
        (lambda: ConcatToSum(rank=1.5), "1.5 is no rank"),
        (lambda: ConcatToSum(rank=99), "above the full rank of join, which is 16"),
        (lambda: ConcatToSum(rank=16), "break-even is rank"),
        (lambda: ConcatToSum(rank=0.5, max_error=0.1), "rank and max_error"),
        (lambda: ConcatToSum(max_error=1.0), "no relative error"),
        (lambda: ConcatToSum(max_error=1e-9), "no rank that is cheaper"),
        (lambda: ConcatToSum(budget={"beauty": -0.1}), "no budget of beauty"),
        (lambda: ConcatToSum(rank=0.5, also=("everything",)), "also='everything'"),
        (lambda: ConcatToSum(rank=0.5, method="moments"), "needs calibration data"),
    ],
)
def test_what_cannot_be_asked_for(what: Callable[[], ConcatToSum], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        planned(model("transposed"), IMAGE, what())


def test_a_budget_that_cannot_be_met_says_the_best_that_can() -> None:
    with pytest.raises(BudgetError, match=r"flops=-99% cannot be met: the best that can be is -\d+\.\d%"):
        planned(model("transposed"), IMAGE, ConcatToSum(budget={"flops": -0.99}))


@pytest.mark.parametrize(
    ("batches", "words"),
    [
        (
            [torch.zeros(2, 4, 16, 16)],
            "batch 0 of the calibration data is of shape 2x4x16x16 where the model takes 1x3x",
        ),
        ([torch.zeros(2, 3, 16)], "of shape 2x3x16"),
        ([torch.zeros(2, 3, 16, 16), torch.full((2, 3, 16, 16), float("nan"))], "batch 1 .* NaN"),
        ([torch.zeros(2, 3, 16, 16, dtype=torch.int64)], "int64"),
        ([], "is empty"),
        (iter([torch.zeros(2, 3, 16, 16)]), "only once"),
        ([()], "has 0 inputs"),
        (3, "cannot be gone through"),
    ],
)
def test_data_that_does_not_fit(batches: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        planned(model("transposed"), IMAGE, ConcatToSum(rank=4), calibrate=batches)


def test_scarce_data_is_said_and_does_not_break_it() -> None:
    few, held_out = [data()[0][:1, :, :8, :8]], data(2, seed=7)
    result = planned(model("transposed"), IMAGE, ConcatToSum(rank=6), execution="separate", calibrate=few)
    assert result.compressed is not None
    assert "scarce" in result.compressed.notes[0]
    without = planned(model("transposed"), IMAGE, ConcatToSum(rank=6), execution="separate")
    errors = [output_error(one, model("transposed"), held_out) for one in (result, without)]
    assert errors[0] < errors[1]


def test_labels_are_left_out_and_loaders_are_taken() -> None:
    images = torch.cat(data())
    labelled = torch.utils.data.TensorDataset(images, torch.zeros(len(images), dtype=torch.int64))
    loader = torch.utils.data.DataLoader(labelled, batch_size=8)
    results = [
        planned(model("transposed"), IMAGE, ConcatToSum(rank=4), execution="separate", calibrate=one)
        for one in (loader, list(images.split(8)))
    ]
    states = [one.model.state_dict() for one in results]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
