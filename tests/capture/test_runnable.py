"""A captured graph that runs again: the original's outputs, gradients and state dict, bit for bit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import einops
import numpy
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from skipgraph.capture.runnable import Captured, runnable
from skipgraph.capture.trees import map_tensors, tensors
from skipgraph.errors import CaptureError
from tests.helpers import fixtures

Inputs = tuple[Any, ...] | dict[str, Any]


def redrawn(model: nn.Module) -> nn.Module:
    """The model with all its floating-point parameters and buffers drawn anew: fresh norms are all alike."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for tensor in {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}.values():
            if tensor.is_floating_point():
                noise = torch.rand(tensor.shape, generator=generator)
                tensor.mul_(1 + 0.1 * noise) if tensor.ndim > 1 else tensor.add_(0.1 * noise)
    return model


def run(model: nn.Module, inputs: Inputs, *, training: bool) -> tuple[Any, list[Tensor | None], list[Tensor]]:
    """Outputs, gradients of parameters and inputs, and buffers afterwards, from a seed."""
    model = copy.deepcopy(model).train(training)
    inputs = map_tensors(lambda x: x.clone().requires_grad_(x.is_floating_point()), inputs)
    torch.manual_seed(0)
    result = model(**inputs) if isinstance(inputs, dict) else model(*inputs)
    outputs = [tensor for tensor in tensors(result) if tensor.requires_grad]
    if outputs:
        sum((tensor * tensor.detach().cos()).sum() for tensor in outputs).backward()
    parameters = [parameter for _, parameter in sorted(model.named_parameters(remove_duplicate=False))]
    gradients = [tensor.grad for tensor in [*parameters, *tensors(inputs)]]
    return result, gradients, [buffer for _, buffer in sorted(model.state_dict().items())]


def assert_same(ours: Any, theirs: Any) -> None:
    """The same tree with equal tensors in it, NaN equal to NaN."""
    assert type(ours) is type(theirs)
    mine, others = list(tensors(ours)), list(tensors(theirs))
    assert len(mine) == len(others)
    for a, b in zip(mine, others, strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        assert a.requires_grad == b.requires_grad
        assert torch.equal(a.nan_to_num(), b.nan_to_num())


def assert_runs_alike(captured: Captured, model: nn.Module, inputs: Inputs, *, training: bool) -> None:
    ours, theirs = (run(one, inputs, training=training) for one in (captured, model))
    assert_same(ours[0], theirs[0])
    assert len(ours[1]) == len(theirs[1])
    for mine, other in zip(ours[1], theirs[1], strict=True):
        assert (mine is None) == (other is None)
        if mine is not None:
            assert torch.equal(mine, other)
    assert all(torch.equal(a, b) for a, b in zip(ours[2], theirs[2], strict=True))


def captured_alike(model: nn.Module, *inputs: Any, other: Inputs | None = None) -> Captured:
    """Capture, and compare in both modes, at the inputs given, at twice the batch and at ``other`` inputs."""
    model = redrawn(model)
    captured = runnable(model, inputs)
    assert_names_kept(captured, model)
    twice = map_tensors(lambda x: torch.cat([x, x.flip(-1)]) if x.ndim else x, inputs)
    for training in (False, True):
        for given in (inputs, twice, *([other] if other else [])):
            assert_runs_alike(captured, model, given, training=training)
    return captured


def assert_names_kept(captured: Captured, model: nn.Module) -> None:
    """Parameters, and the persistent buffers, under the same names."""
    assert list(captured.state_dict()) == list(model.state_dict())
    ours, theirs = ([name for name, _ in one.named_parameters(remove_duplicate=False)] for one in (captured, model))
    assert ours == theirs


def image(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


# -- fixtures --------------------------------------------------------------------------------------------------------

NARROW = {"width": 8}
SMALLER: dict[str, dict[str, Any]] = {
    "attention_unet": NARROW, "conditioned_unet": NARROW, "hrnet": NARROW, "unet": NARROW, "unet3d": {"width": 4},
    "unet_crop": NARROW, "unet_plus_plus": NARROW, "unet_sum": NARROW,
}  # fmt: skip
SIZES = {"unet": 64, "unet_crop": 204}


@pytest.mark.parametrize("name", fixtures.names())
def test_fixture_in_both_modes_at_other_batches_and_sizes(name: str) -> None:
    fixture = fixtures.load(name)
    torch.manual_seed(1)
    model = redrawn(fixture.model_class(**SMALLER.get(name, {})))
    named = fixture.example_inputs if isinstance(fixture.example_inputs, dict) else {}
    inputs = tuple(named.values() or fixture.example_inputs)
    if name in SIZES:
        inputs = tuple(x[..., : SIZES[name], : SIZES[name]] for x in inputs)
    captured = runnable(model, () if named else inputs, dict(zip(named, inputs, strict=True)) if named else {})
    assert_names_kept(captured, model)
    for training, batch in ((False, 1), (False, 3), (True, 2)):
        many = map_tensors(lambda x, batch=batch: torch.cat([x, *[x.flip(-1)] * (batch - 1)]), inputs)
        assert_runs_alike(captured, model, many, training=training)
    for change in (32, 5):
        larger = map_tensors(lambda x, change=change: F.pad(x, (0, change)) if x.ndim > 3 else x, inputs)
        try:
            theirs = model.eval()(*larger)
        except (RuntimeError, AssertionError):
            continue  # the original does not run at this size
        try:
            ours = captured.eval()(*larger)
        except AssertionError as error:
            if "captured for image.size(3)" not in str(error):
                raise
        else:
            assert torch.equal(ours, theirs)


# -- public models ---------------------------------------------------------------------------------------------------


def torchvision_model(name: str, **settings: Any) -> nn.Module:
    return pytest.importorskip("torchvision").models.get_model(name, weights=None, num_classes=4, **settings)


def timm_model(name: str, **settings: Any) -> nn.Module:
    return pytest.importorskip("timm").create_model(name, num_classes=4, **settings)


def swin() -> nn.Module:
    return pytest.importorskip("torchvision").models.SwinTransformer([4, 4], 16, [1, 1], [2, 2], [4, 4], num_classes=4)


@dataclass(frozen=True)
class Public:
    build: Callable[[], nn.Module]
    size: tuple[int, int]
    other: tuple[int, int]
    one_graph: bool = True


PUBLIC = {
    "resnet18": Public(lambda: torchvision_model("resnet18"), (64, 64), (96, 40)),
    "mobilenet": Public(lambda: torchvision_model("mobilenet_v3_small"), (64, 64), (70, 40)),
    "googlenet": Public(
        lambda: torchvision_model("googlenet", init_weights=False), (64, 64), (96, 64), one_graph=False
    ),
    "swin": Public(swin, (64, 64), (72, 96), one_graph=False),
    "fcn": Public(lambda: torchvision_model("fcn_resnet50", weights_backbone=None, aux_loss=True), (48, 40), (33, 56)),
    "drop path": Public(lambda: timm_model("convnext_atto", drop_path_rate=0.2), (64, 64), (96, 64), one_graph=False),
}


@pytest.mark.parametrize("name", PUBLIC)
def test_public_model_at_another_batch_and_size(name: str) -> None:
    public = PUBLIC[name]
    model = redrawn(public.build())
    captured = runnable(model, (image(2, 3, *public.size),))
    assert_names_kept(captured, model)
    assert (captured.graphs[False] is captured.graphs[True]) == public.one_graph
    for training in (False, True):
        assert_runs_alike(captured, model, (image(2, 3, *public.size),), training=training)
        assert_runs_alike(captured, model, (image(3, 3, *public.other),), training=training)


def test_a_fixed_image_size_is_asserted() -> None:
    model = timm_model("vit_tiny_patch16_224", img_size=32, depth=1)
    captured = runnable(model, (image(1, 3, 32, 32),))
    assert torch.equal(captured.eval()(image(3, 3, 32, 32)), model.eval()(image(3, 3, 32, 32)))
    with pytest.raises(
        AssertionError, match=r"captured for x\.size\(2\) == 32, and other sizes cannot be carried over"
    ):
        captured(image(1, 3, 48, 32))


TINY = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16, "vocab_size": 50}


@pytest.mark.parametrize("kind", ["Bert", "GPT2"])
def test_language_model_keeps_its_output_class_and_takes_other_lengths(kind: str) -> None:
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{kind}Config")(**TINY, bos_token_id=1, eos_token_id=1)
    model = redrawn(getattr(transformers, f"{kind}Model")(config))
    ids = torch.arange(24).view(2, 12)
    captured = runnable(model, (), {"attention_mask": torch.ones_like(ids), "input_ids": ids})
    for given in (ids, torch.arange(45).view(3, 15)):
        inputs = {"input_ids": given, "attention_mask": torch.ones_like(given)}
        for training in (False, True):
            assert_runs_alike(captured, model, inputs, training=training)
    if kind == "GPT2":  # the cache of keys and values is an object of its own
        ours, theirs = (one.eval()(**inputs).past_key_values for one in (captured, model))
        assert type(ours) is type(theirs)
        assert torch.equal(ours.layers[1].keys, theirs.layers[1].keys)
        assert ours.get_seq_length() == theirs.get_seq_length()


# -- what forwards do ------------------------------------------------------------------------------------------------


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
    OptionalArgument, InPlace, Shared, Functional, Mutating, Checkpointed, WithoutGradient, AllWithoutGradient, Autocast,
    OwnDerivative, Nested, Random, KeptFrozen, Hooked, Parametrised, FromNumPy, Operators,
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
