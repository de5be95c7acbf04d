"""The smallest models that show what each word of docs/definitions.md means."""

# ruff: noqa: D102
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d

CHANNELS = 16
IMAGE = (1, CHANNELS, 32, 32)


def conv(inputs: int = CHANNELS, outputs: int = CHANNELS, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    """A convolution that keeps the resolution, unless it is strided."""
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2)


def block(inputs: int = CHANNELS, outputs: int = CHANNELS, stride: int = 1) -> nn.Sequential:
    """Two convolutions with a ReLU between them."""
    return nn.Sequential(conv(inputs, outputs, stride=stride), nn.ReLU(), conv(outputs, outputs))


class Add(nn.Module):
    """A residual sum."""

    def __init__(self) -> None:
        super().__init__()
        self.block = block()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x)


class Concat(nn.Module):
    """What a block computes, appended to what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.block = block()

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.block(x)], 1)


class Gated(nn.Module):
    """A highway layer: a gate mixes what is computed with what was given."""

    def __init__(self) -> None:
        super().__init__()
        self.block = block()
        self.gate = nn.Sequential(conv(), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        gate = self.gate(x)
        return gate * self.block(x) + (1 - gate) * x


class Projected(nn.Module):
    """The block halves the resolution, so the shortcut has to."""

    def __init__(self) -> None:
        super().__init__()
        self.block = block(CHANNELS, 2 * CHANNELS, stride=2)
        self.project = conv(CHANNELS, 2 * CHANNELS, kernel=1, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(x) + self.block(x)


class RoundTrip(nn.Module):
    """Down to a lower resolution and up again."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = conv()
        self.bottleneck = block()
        self.head = conv(2 * CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.encoder(x).relu()
        coarse = self.bottleneck(max_pool2d(fine, 2))
        return self.head(torch.cat([fine, interpolate(coarse, scale_factor=2.0)], 1))


class AroundSkips(nn.Module):
    """One resolution throughout, and a sum around two residual blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.first = block()
        self.second = block()
        self.last = conv()

    def forward(self, x: Tensor) -> Tensor:
        y = x + self.first(x)
        y = y + self.second(y)
        return x + self.last(y)


class Dense(nn.Module):
    """Every layer reads all that came before it."""

    def __init__(self, layers: int = 3) -> None:
        super().__init__()
        self.layers = nn.ModuleList(conv(CHANNELS * (place + 1)) for place in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.layers:
            features.append(layer(torch.cat(features, 1)).relu())
        return torch.cat(features, 1)


class Nested(nn.Module):
    """A round trip within a round trip."""

    def __init__(self) -> None:
        super().__init__()
        self.outer = conv()
        self.inner = conv()
        self.bottleneck = block()
        self.decoder = conv(2 * CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.outer(x).relu()
        middle = self.inner(max_pool2d(fine, 2)).relu()
        coarse = self.bottleneck(max_pool2d(middle, 2))
        up = self.decoder(torch.cat([middle, interpolate(coarse, scale_factor=2.0)], 1)).relu()
        return torch.cat([fine, interpolate(up, scale_factor=2.0)], 1)


class Parallel(nn.Module):
    """Branches of unlike depth side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.shallow = nn.Sequential(conv(kernel=1), nn.ReLU())
        self.deep = nn.Sequential(conv(kernel=1), nn.ReLU(), conv(), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.shallow(x), self.deep(x)], 1)


class Gate(nn.Module):
    """Squeeze and excitation: channels are weighted, nothing is added."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv()
        self.squeeze = nn.AdaptiveAvgPool2d(1)
        self.excite = nn.Sequential(conv(kernel=1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y * self.excite(self.squeeze(y))


class Slices(nn.Module):
    """One half of the channels is computed on, then both are put together."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv()
        self.block = block(CHANNELS // 2, CHANNELS // 2)

    def forward(self, x: Tensor) -> Tensor:
        kept, changed = self.stem(x).chunk(2, dim=1)
        return torch.cat([kept, self.block(changed)], 1)


class Conditioning(nn.Module):
    """A vector is added at all positions of a feature map."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, CHANNELS)
        self.first = conv()
        self.second = conv()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        vector = self.embed(time)[:, :, None, None]
        y = (self.first(x) + vector).relu()
        return self.second(y) + vector


@dataclass(frozen=True)
class Picture:
    """One picture: its title, the model that it is drawn from, and how many skips and edges are to be seen."""

    title: str
    model: Callable[[], nn.Module]
    skips: int
    edges: int
    shapes: tuple[tuple[int, ...], ...] = (IMAGE,)

    def inputs(self) -> tuple[Tensor, ...]:
        """Inputs without data."""
        return tuple(torch.empty(shape, device="meta") for shape in self.shapes)


PICTURES = {
    "add": Picture("x + F(x)", Add, 1, 1),
    "concat": Picture("cat(x, F(x))", Concat, 1, 1),
    "gated": Picture("g · F(x) + (1 − g) · x", Gated, 1, 1),
    "projected": Picture("W x + F(x)", Projected, 1, 1),
    "long": Picture("round trip", RoundTrip, 1, 1),
    "long_nested": Picture("around two skips in series", AroundSkips, 3, 3),
    "dense": Picture("dense block of three layers", Dense, 3, 6),
    "nested": Picture("nested round trips", Nested, 2, 2),
    "parallel": Picture("parallel branches: no skip", Parallel, 0, 0),
    "gate": Picture("a gate: no skip", Gate, 0, 0),
    "slices": Picture("slices put together again: no skip", Slices, 0, 0),
    "conditioning": Picture("a condition: no skip", Conditioning, 0, 0, (IMAGE, (1, 8))),
}
