"""Live ranges by hand, and against PyTorch's own allocator."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from skipgraph.capture import runnable
from tests.helpers.pricing import measured_peak, measured_saved, priced
from tests.helpers.tracing import Written

if TYPE_CHECKING:
    from collections.abc import Callable

    from skipgraph.graph import Cost

SIZE = 4 * 1000
VECTOR = torch.empty(1000)


def cost(forward: Callable[..., torch.Tensor]) -> Cost:
    """Of element-wise functions, whose kernels need no memory of their own."""
    return priced(Written(forward), VECTOR).cost


def test_a_chain_holds_input_operand_and_result() -> None:
    found = cost(lambda self, x: x.exp().sin().cos())
    assert (found.peak_bytes, found.peak_step, found.peak_node) == (3 * SIZE, 2, "sin")
    assert (found.steps, found.activation_bytes) == (3, 3 * SIZE)


def test_a_variable_holds_its_tensor_until_the_forward_returns() -> None:
    def forward(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        first = x.exp()
        second = first.sin()
        third = second.cos()
        return third.tan()

    found = cost(forward)
    assert found.peak_bytes == 5 * SIZE
    assert found.peak_bytes_last_use == 3 * SIZE


def test_an_enclosing_frame_holds_its_variables_too() -> None:
    inner = Written(lambda self, x: x.sin().cos())

    def forward(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        kept = x.exp()
        return self.inner(kept)

    found = priced(Written(forward, inner=inner), VECTOR).cost
    assert found.peak_bytes == 4 * SIZE
    assert found.peak_bytes_last_use == 3 * SIZE


def test_views_share_their_memory_and_are_no_steps() -> None:
    found = cost(lambda self, x: x.exp().view(10, 100).t().sin())
    assert found.peak_bytes == 3 * SIZE
    assert (found.steps, found.activation_bytes) == (2, 2 * SIZE)


def test_a_slice_holds_all_of_its_memory() -> None:
    found = cost(lambda self, x: x.exp()[:10].sin().cos().tan())
    assert found.peak_bytes_last_use == 2 * SIZE + 40  # the sine of ten, while the slice holds the whole


def test_writing_in_place_needs_no_memory() -> None:
    found = cost(lambda self, x: x.exp().sin_().cos_())
    assert (found.peak_bytes, found.steps) == (2 * SIZE, 3)


def test_a_skip_holds_its_source() -> None:
    found = cost(lambda self, x: (lambda y: y + y.sin().cos())(x.exp()))
    assert found.peak_bytes_last_use == 4 * SIZE


def test_the_caller_holds_outputs() -> None:
    def forward(self: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
        return [x.exp(), x.sin(), x.cos()]

    assert priced(Written(forward), VECTOR).cost.peak_bytes_last_use == 4 * SIZE


def test_nodes_at_the_peak_are_marked() -> None:
    graph = priced(Written(lambda self, x: (lambda y: (y + y.sin().cos()).tan())(x.exp())), VECTOR)
    held = {node for node, data in graph.nodes(data=True) if data["held_at_peak"]}
    assert graph.cost.peak_node == "cos"
    assert held == {"args.0", "exp", "sin", "cos"}


class UNet(nn.Module):
    """A U-Net of two levels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = self.block(3, 32), self.block(32, 64)
        self.bottom = self.block(64, 64)
        self.up, self.last = nn.ConvTranspose2d(64, 64, 2, stride=2), self.block(128, 32)
        self.head = nn.Conv2d(64, 5, 1)

    @staticmethod
    def block(inner: int, outer: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(inner, outer, 3, padding=1), nn.BatchNorm2d(outer), nn.ReLU(inplace=True))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        first = self.first(image)
        second = self.second(F.max_pool2d(first, 2))
        bottom = self.bottom(F.max_pool2d(second, 2))
        x = self.last(torch.cat([second, self.up(bottom)], 1))
        return self.head(torch.cat([first, F.interpolate(x, scale_factor=2, mode="bilinear")], 1))


class Transformer(nn.Module):
    """Two encoder layers, spelt out."""

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.TransformerEncoderLayer(64, 4, 256, dropout=0.0, batch_first=True) for _ in range(2)]
        self.layers = nn.Sequential(*layers)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.layers(tokens)


class Fused(nn.Module):
    """Attention as a call of the user's own, heads put together by a reshape."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(64, 192), nn.Linear(64, 64)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        batch, length, size = tokens.shape
        query, key, value = self.qkv(tokens).reshape(batch, length, 3, 4, 16).permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(query, key, value)
        return tokens + self.out(x.transpose(1, 2).reshape(batch, length, size))


class Recurrent(nn.Module):
    """A recurrent layer and a head."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.layer, self.head = kind(64, 96, 2, batch_first=True), nn.Linear(96, 5)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(tokens)[0])


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "unet": (UNet, (2, 3, 64, 64)),
    "transformer": (Transformer, (2, 150, 64)),
    "fused": (Fused, (2, 150, 64)),
    "lstm": (lambda: Recurrent(nn.LSTM), (8, 40, 64)),
    "gru": (lambda: Recurrent(nn.GRU), (8, 40, 64)),
}


@pytest.fixture
def _slow_path() -> object:
    """Capture sees models without their fused inference path, so they are measured without it."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(enabled)


@pytest.mark.usefixtures("_slow_path")
@pytest.mark.parametrize("name", MODELS)
def test_peaks_are_the_allocator_s(name: str) -> None:
    build, shape = MODELS[name]
    torch.manual_seed(0)
    model, tensor = build(), torch.randn(shape)
    found = priced(model, tensor).cost
    assert found.peak_bytes == pytest.approx(measured_peak(model, tensor), rel=0.02)
    captured = runnable(model, (tensor,)).eval()
    assert found.peak_bytes_last_use == pytest.approx(measured_peak(captured, tensor), rel=0.02)


@pytest.mark.parametrize("name", MODELS)
def test_what_is_saved_is_what_autograd_keeps(name: str) -> None:
    build, shape = MODELS[name]
    model, tensor = build(), torch.randn(shape)
    graph = priced(model, tensor, train=True)
    assert graph.cost.saved_bytes == pytest.approx(measured_saved(model, tensor), rel=0.05)


def test_saved_bytes_are_told_apart_by_node() -> None:
    model = Written(lambda self, x: self.layer(x).exp().sigmoid() + 1, layer=nn.Linear(1000, 10))
    graph = priced(model, VECTOR[None], train=True)
    saved = {node: data["saved_bytes"] for node, data in graph.nodes(data=True) if data["saved_bytes"]}
    assert saved == {"exp": 40, "sigmoid": 40}
    assert graph.cost.saved_bytes == SIZE + 80  # and the input, for the weight's gradient
    assert priced(model, VECTOR[None]).cost.saved_bytes is None
