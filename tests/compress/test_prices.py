"""The price that a choice of ranks goes by is that of the model that is built, wherever projections end up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipgraph import ConcatToSum
from skipgraph.errors import UsageError
from skipgraph.rewriting import planned, rewrite
from tests.helpers import fixtures
from tests.helpers.rerun import redrawn

if TYPE_CHECKING:
    from collections.abc import Callable

Case = tuple["Callable[[Any, Tensor], Tensor]", dict[str, nn.Module], tuple[int, ...]]


class Net(nn.Module):
    """Layers by name, and a forward over them."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor], layers: dict[str, nn.Module]) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.run = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def conv(channels: int, out: int, kernel: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(channels, out, kernel, padding=kernel // 2, **options)


IMAGE = (2, 3, 16, 16)
CASES: dict[str, Case] = {
    "tokens": (
        lambda m, x: m.join(torch.cat([h := m.a(x), m.b(h.relu())], -1)),
        {"a": nn.Linear(12, 24), "b": nn.Linear(24, 24), "join": nn.Linear(48, 16)},
        (2, 7, 12),
    ),
    "one tensor twice": (
        lambda m, x: m.join(torch.cat([x, h := m.a(x), h], 1)),
        {"a": conv(3, 16), "join": conv(35, 16)},
        IMAGE,
    ),
    "one resampled tensor twice": (
        lambda m, x: m.join(torch.cat([x, h := F.interpolate(m.a(F.avg_pool2d(x, 2)).relu(), scale_factor=2), h], 1)),
        {"a": conv(3, 16), "join": conv(35, 16)},
        IMAGE,
    ),
    "a layer at a concat makes an operand": (
        lambda m, x: m.last(torch.cat([x, m.join(torch.cat([x, m.a(x).relu()], 1))], 1)),
        {"a": conv(3, 16), "join": conv(19, 16), "last": conv(19, 16)},
        IMAGE,
    ),
    "no bias": (
        lambda m, x: m.join(torch.cat([x, m.a(x).relu()], 1)),
        {"a": conv(3, 16), "join": conv(19, 16, bias=False)},
        IMAGE,
    ),
    "resampled when joined": (
        lambda m, x: m.join(F.interpolate(torch.cat([h := m.a(x), m.b(h).relu()], 1), scale_factor=2)),
        {"a": conv(3, 16), "b": conv(16, 16), "join": conv(32, 16)},
        IMAGE,
    ),
    "concat of a concat": (
        lambda m, x: m.join(torch.cat([x, torch.cat([m.a(x), m.up(m.b(x[..., ::2, ::2]).relu())], 1)], 1)),
        {"a": conv(3, 16), "b": conv(3, 16), "up": nn.Upsample(scale_factor=2), "join": conv(35, 16)},
        IMAGE,
    ),
    "linear over positions": (
        lambda m, x: m.last(m.join(torch.cat([m.a(x).relu(), x], 1))),
        {"a": nn.Conv1d(4, 16, 3, padding=1), "join": nn.Conv1d(20, 8, 1), "last": nn.Linear(32, 8)},
        (2, 4, 32),
    ),
    "one image without a batch": (
        lambda m, x: m.join(torch.cat([x, m.a(x).relu()], 0)),
        {"a": conv(3, 16), "join": conv(19, 16)},
        (3, 16, 16),
    ),
}  # fmt: skip


@pytest.mark.parametrize("with_data", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_what_is_promised_is_built(name: str, with_data: bool) -> None:
    forward, layers, shape = CASES[name]
    torch.manual_seed(0)
    model, example = redrawn(Net(forward, layers)).eval(), torch.randn(shape)
    what = ConcatToSum(rank=3, also=("linear",))
    data = [torch.randn(shape) for _ in range(3)] if with_data else None
    result = rewrite(model, example, what, execution="separate", calibrate=data)
    assert result.compressed is not None
    assert "join" in [layer.path for layer in result.compressed.layers]
    flops, parameters = (
        sum(getattr(layer, measure) for layer in result.compressed.layers) for measure in ("flops", "parameters")
    )
    assert result.after.cost.flops - result.before.cost.flops == flops
    assert result.after.cost.parameters - result.before.cost.parameters == parameters


@pytest.mark.parametrize("name", ["tokens", "a layer at a concat makes an operand"])
@pytest.mark.parametrize("share", [-0.15, -0.3])
def test_budgets_are_kept_to(name: str, share: float) -> None:
    forward, layers, shape = CASES[name]
    model = redrawn(Net(forward, layers)).eval()
    result = planned(model, torch.randn(shape), ConcatToSum(budget={"flops": share}, also=("linear",)))
    assert result.after.cost.flops <= (1 + share) * result.before.cost.flops


@pytest.mark.parametrize("name", ["fpn", "inception", "csp", "stochastic_depth", "lstm_unrolled"])
def test_fixtures(name: str) -> None:
    fixture = fixtures.load(name)
    torch.manual_seed(0)
    what = ConcatToSum(rank=0.2, also=("linear",))
    result = rewrite(redrawn(fixture.model_class()), fixture.example_inputs, what, execution="separate")
    assert result.compressed is not None
    flops = sum(layer.flops for layer in result.compressed.layers)
    assert result.after.cost.flops - result.before.cost.flops == flops < 0


def test_only_what_was_asked() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = conv(3, 16), conv(19, 16), conv(19, 16)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(torch.cat([x, self.b(torch.cat([x, self.a(x).relu()], 1)).relu()], 1))

    torch.manual_seed(0)
    model, image = Two().eval(), torch.randn(IMAGE)
    ids = [outcome.id for outcome in planned(model, image, ConcatToSum(rank=2)).plan.outcomes]

    def factored(**patterns: list[str]) -> list[str]:
        result = planned(model, image, ConcatToSum(rank=2, also=("linear",)), **patterns)  # type: ignore[arg-type]
        assert result.compressed is not None
        return [layer.path for layer in result.compressed.layers]

    assert factored() == ["a", "b", "c"]
    assert factored(skip=[ids[0]]) == ["a", "c"]
    assert factored(only=[ids[1]]) == ["c"]


@pytest.mark.parametrize(
    ("forward", "layers"),
    [
        (lambda m, x: m.join(input=torch.cat([x, m.a(x).relu()], 1)), {"a": conv(3, 16), "join": conv(19, 16)}),
        (
            lambda m, x: m.join(torch.cat([x, m.a(x).relu()], 1), output_size=[32, 32]),
            {"a": conv(3, 16), "join": nn.ConvTranspose2d(19, 16, 2, stride=2)},
        ),
    ],
)
def test_calls_that_a_pair_cannot_stand_for(
    forward: Callable[[Any, Tensor], Tensor], layers: dict[str, nn.Module]
) -> None:
    with pytest.raises(UsageError, match="no layer is factored"):
        planned(Net(forward, layers).eval(), torch.randn(IMAGE), ConcatToSum(rank=2), execution="separate")


def test_what_is_overwritten_on_the_way_is_read_in_time() -> None:
    """The projection may not go to the fork, past a write into a view of what it reads."""

    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.a(x)
        g = m.b(F.interpolate(h, scale_factor=0.5)).relu()
        h.view(len(h), -1).mul_(2)
        return m.join(torch.cat([h, F.interpolate(g, scale_factor=2)], 1))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    model = Net(forward, {"a": conv(3, 16), "b": conv(16, 16), "join": conv(32, 16)}).eval()
    rewrite(model, torch.randn(IMAGE), ConcatToSum(rank=4), execution="separate")


@pytest.mark.parametrize("samples", [1, 2])
def test_random_numbers_and_norms_of_one_sample(samples: int) -> None:
    """Drop path draws in training; a norm behind a pooled image takes no statistics of one sample."""

    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.a(x).relu()
        kept = torch.bernoulli(torch.full((len(x), 1, 1, 1), 0.5, dtype=x.dtype)) if m.training and samples > 1 else 1.0
        return m.norm(m.join(torch.cat([x, h * kept], 1)).mean((2, 3)))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    model = Net(forward, {"a": conv(3, 16), "join": conv(19, 16), "norm": nn.BatchNorm1d(16)}).eval()
    example = torch.randn(samples, 3, 16, 16)
    state = torch.random.get_rng_state()
    rewrite(model, example, ConcatToSum(rank=4), execution="separate")
    assert torch.equal(state, torch.random.get_rng_state())
