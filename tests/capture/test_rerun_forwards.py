"""What forwards do, captured and run again: in-place writes, regions, own derivatives, hooks, containers."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import einops
import numpy
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from skipgraph.capture.runnable import runnable
from skipgraph.errors import CaptureError
from tests.helpers.rerun import assert_runs_alike, captured_alike, image
from tests.helpers.tracing import Written


class Two(nn.Module):
    """Two layers, of which the first drops out; tests derive their forwards from it."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.3), nn.ReLU())
        self.b = nn.Linear(4, 4)


class OptionalArgument(Two):
    def forward(self, x: Tensor, scale: float = 2.0, mask: Tensor | None = None) -> Tensor:
        return self.b(x) * scale if mask is None else self.b(x) * mask


class InPlace(Two):
    def forward(self, x: Tensor) -> Tensor:
        y = self.b(x).mul_(2).relu_() + 0
        y[:, 1:3] = y[:, :2].clone()
        z = torch.zeros_like(y)
        z[:, ::2] += y[:, ::2]
        z[0] = y[0]
        y *= 2
        return z.masked_fill_(z > 1, 0.5) + y


class Shared(Two):
    def __init__(self) -> None:
        super().__init__()
        self.again = self.b
        self.tied = nn.Linear(4, 4, bias=False)
        self.tied.weight = self.b.weight
        self.unused = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.again(self.tied(self.b(x)))


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4))
        self.norm = nn.BatchNorm1d(4)
        self.register_buffer("shift", torch.ones(4), persistent=False)
        self.plain = torch.arange(4.0)
        self.listed = [torch.arange(4.0)]

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(F.linear(x, self.weight / self.weight.norm()), 0.5, training=self.training)
        n = self.norm
        x = F.batch_norm(x, n.running_mean, n.running_var, n.weight, n.bias, self.training, 0.1)
        return x + self.shift + self.plain * self.listed[0] + torch.tensor([1.0, 2.0, 3.0, 4.0])


class Mutating(Two):
    def __init__(self) -> None:
        super().__init__()
        self.cache: Tensor | None = None
        self.calls = 0
        self.register_buffer("steps", torch.zeros(1))
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.steps += 1
        if self.cache is None:
            self.cache = torch.arange(x.shape[0], device=x.device, dtype=x.dtype)[:, None]
        y = self.b(x) + self.cache
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * y.detach().mean(0)
        return y - self.mean


class Checkpointed(Two):
    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.b, checkpoint(self.a, self.b(x), use_reentrant=False), use_reentrant=True)


class WithoutGradient(Two):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            frozen = self.a(x)
        y = self.b(x)
        with torch.no_grad():
            held = y * 2
            with torch.enable_grad():
                free = self.b(held)
            last = free * 2
        return frozen + y + free, last


class AllWithoutGradient(Two):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return self.b(x)


class Autocast(Two):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.b(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = self.a(y)
            with torch.autocast("cpu", enabled=False):
                y = self.b(y.float())
            y = y @ y.T
        return y.float().sum(1, keepdim=True) + self.b(x), y


class Sign(torch.autograd.Function):
    """Its derivative is not the true one, so that gradients tell whether it was used."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.slope = slope
        return x.sign()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return gradient * x.tanh() * ctx.slope, None


class OwnDerivative(Two):
    def forward(self, x: Tensor) -> Tensor:
        return self.b(Sign.apply(self.b(x), 3.0))


class Pair(NamedTuple):
    first: Tensor
    others: list[Any]


class Nested(Two):
    def forward(self, x: Tensor) -> Pair:
        return Pair(self.b(x), [x, self.b.weight, {"key": (self.a(x), None, 3)}])


class Random(Two):
    def forward(self, x: Tensor) -> Tensor:
        y = self.b(x)
        if self.training:
            y = y.div(0.5) * y.new_empty((y.shape[0],) + (1,) * (y.ndim - 1)).bernoulli_(0.5)
            y = y * torch.rand_like(y) * torch.rand(y.shape[0], 1, device=y.device)
        return x + y


class KeptFrozen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.layer.weight.requires_grad_(False)

    def train(self, mode: bool = True) -> KeptFrozen:
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.layer(x))


class Hooked(Two):
    def __init__(self) -> None:
        super().__init__()
        self.b.register_forward_hook(lambda module, inputs, output: output * 2)
        self.b.register_full_backward_hook(lambda module, inputs, outputs: (inputs[0] * 2,))
        self.a.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 3,))
        self.a.register_forward_hook(lambda module, inputs, output: output + 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(self.b(x))


class Parametrised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
        self.b = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x))


class FromNumPy(Two):
    def forward(self, x: Tensor) -> Tensor:
        array = numpy.arange(4, dtype=numpy.float32)
        return self.b(x) * torch.from_numpy(array) + torch.as_tensor(array, device=x.device)


class Operators(Two):
    def forward(self, x: Tensor) -> list[Tensor]:
        y = self.b(x)
        return [
            1 - y,
            2 / y.exp(),
            2**y,
            y.T,
            -y,
            abs(y),
            y % 2,
            (y > 0) & ~(y < 1),
            y < 3,
            y.data,
            y.detach(),
            y[None],
        ]


FORWARDS = [
    OptionalArgument, InPlace, Shared, Functional, Mutating, Checkpointed, WithoutGradient, AllWithoutGradient,
    Autocast, OwnDerivative, Nested, Random, KeptFrozen, Hooked, Parametrised, FromNumPy, Operators,
]  # fmt: skip


@pytest.mark.parametrize("kind", FORWARDS)
def test_forward(kind: type[nn.Module]) -> None:
    torch.manual_seed(2)
    captured_alike(kind(), image(2, 4), other=(image(5, 4),))


class Einops(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.convolution(x)
        tokens = einops.rearrange(y, "b c h w -> b (h w) c")
        patches = einops.rearrange(y, "b c (h p) (w q) -> b (h w) (p q c)", p=2, q=2)
        mean = einops.repeat(einops.reduce(patches, "b n c -> b c", "mean"), "b c -> b n c", n=tokens.shape[1])
        return tokens + mean[..., :4], einops.rearrange(tokens, "b (h w) c -> b c h w", h=x.shape[2])


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 8, 2, batch_first=True, dropout=0.2, bidirectional=True)
        self.gru = nn.GRU(16, 8, batch_first=True)
        self.cell = nn.LSTMCell(8, 8)

    def forward(self, x: Tensor) -> dict[str, Any]:
        y, (hidden, _) = self.lstm(x)
        z, last = self.gru(y, torch.zeros(1, x.size(0), 8, device=x.device, dtype=x.dtype))
        return {"z": z, "hidden": hidden, "states": [last, self.cell(z[:, 0], self.cell(z[:, -1]))]}


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
        self.decoder = nn.TransformerDecoderLayer(8, 2, 16, batch_first=True)
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.2, batch_first=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], device=x.device)
        return self.attention(x, x, self.decoder(x, self.encoder(x, mask=mask, is_causal=True)))


@pytest.mark.parametrize(
    ("kind", "inputs", "other"),
    [
        (Einops, image(2, 3, 8, 8), image(2, 3, 12, 16)),
        (Recurrent, image(2, 6, 8), image(3, 9, 8)),
        (Attention, image(2, 6, 8), image(3, 9, 8)),
    ],
)
def test_library_layers_at_another_size(kind: type[nn.Module], inputs: Tensor, other: Tensor) -> None:
    captured_alike(kind(), inputs, other=(other,))


class FromContainers(Two):
    def forward(self, features: dict[str, Tensor], *more: Tensor, rest: list[Tensor]) -> Tensor:
        return self.b(features["x"]) + features["y"] + sum(more) + sum(rest)


def test_inputs_in_containers_and_in_any_order() -> None:
    model = FromContainers()
    x = image(2, 4)
    captured = runnable(model, ({"x": x, "y": x + 1}, x + 2, x + 3), {"rest": [x, x]})
    x = image(3, 4)
    given, rest = ({"x": x, "y": 2 * x}, x - 2, x - 3), [x, 5 * x]
    assert torch.equal(captured.eval()(*given, rest=rest), model.eval()(*given, rest=rest))


def test_an_input_that_is_no_tensor_is_asserted() -> None:
    captured = runnable(OptionalArgument(), (image(2, 4), 3.0))
    with pytest.raises(AssertionError, match=r"captured for scale == 3.0"):
        captured(image(2, 4), 4.0)


def test_a_decision_by_a_random_number_is_refused() -> None:
    class LayerDrop(Two):
        def forward(self, x: Tensor) -> Tensor:
            return self.b(x) if torch.rand([]) < 0.5 else x

    with pytest.raises(CaptureError, match="drawn at random"):
        runnable(LayerDrop(), (image(2, 4),))


def test_a_decision_by_the_inputs_values_is_refused() -> None:
    class Branch(Two):
        def forward(self, x: Tensor) -> Tensor:
            return self.b(x) if x.sum() > 0 else x

    with pytest.raises(CaptureError, match="depends on the data"):
        runnable(Branch(), (image(2, 4),))


# -- the module that comes out ---------------------------------------------------------------------------------------


def test_the_captured_module_holds_the_models_own_tensors_and_a_copy_its_own() -> None:
    model = Functional()
    captured = runnable(model, (image(2, 4),))
    assert captured.weight is model.weight
    assert captured.norm is model.norm
    assert "shift" not in captured.state_dict()
    twin = copy.deepcopy(captured)
    with torch.no_grad():
        twin.weight.zero_()
    assert model.weight.abs().sum() > 0
    assert not torch.equal(twin.eval()(image(2, 4)), captured.eval()(image(2, 4)))


def test_the_model_is_as_it_was() -> None:
    model = Mutating()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    runnable(model, (image(2, 4),))
    assert torch.equal(torch.rand(3), expected)
    assert model.training
    assert model.cache is None
    assert model.calls == 0
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


class Plain(Two):
    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x))


def test_hooks_put_on_a_layer_later_fire() -> None:
    captured = runnable(Plain(), (image(2, 4),))
    seen: list[torch.Size] = []
    captured.b.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    captured(image(3, 4))
    assert seen == [torch.Size([3, 4])]


def test_a_captured_module_can_be_captured_again() -> None:
    model = FromNumPy()
    captured = runnable(model, (image(2, 4),))
    again = runnable(captured, (image(2, 4),))
    assert_runs_alike(again, model, (image(3, 4),), training=False)


def test_one_graph_serves_both_modes_where_only_arguments_differ() -> None:
    captured = runnable(Functional(), (image(2, 4),))
    assert captured.graphs[False] is captured.graphs[True]
    assert "self.training" in captured.code()


class Powers(Two):
    def forward(self, x: Tensor) -> Tensor:
        y = self.b(x).abs() + 1
        z = y**0.5 + 2**y + y**y - 1 / y + (3 - y) % 2
        z **= 2
        return z


def test_powers_and_reflected_operators() -> None:
    torch.manual_seed(0)
    captured_alike(Powers(), torch.randn(2, 4))


def test_numbers_of_numpy_are_written_as_plain_ones() -> None:
    model = Written(lambda m, x: x / numpy.sqrt(numpy.float32(4.0)) + numpy.int64(1))
    captured = runnable(model, (torch.ones(2, 3),))
    assert torch.equal(captured(torch.ones(2, 3)), model(torch.ones(2, 3)))


def test_a_buffer_in_another_object_is_the_buffer() -> None:
    model = Written(lambda m, x: x.index_select(1, torch.autograd.Variable(m.index)))
    model.register_buffer("index", torch.tensor([2, 0]))
    captured = runnable(model, (torch.ones(2, 3),))
    x = torch.randn(4, 3)
    assert torch.equal(captured(x), x[:, [2, 0]])
    assert "_constant" not in captured.code()


def test_a_function_that_is_mapped_is_refused() -> None:
    model = Written(lambda m, x: torch.vmap(lambda row: row * row.sum())(x))
    with pytest.raises(CaptureError, match="vmap"):
        runnable(model, (torch.randn(3, 4),))
