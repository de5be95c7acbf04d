"""Small modules made on the spot, and the skips that are found in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from skipgraph.capture import capture
from skipgraph.graph import SkipGraph, build
from skipgraph.skips import find_skips

if TYPE_CHECKING:
    from collections.abc import Callable

Inputs = tuple[Any, ...] | dict[str, Any]


class Written(nn.Module):
    """A module whose forward is a plain function of itself and the inputs; children and parameters by keyword."""

    def __init__(self, forward: Callable[..., Any], **members: Any) -> None:
        super().__init__()
        self._written = forward
        for name, member in members.items():
            if isinstance(member, (list, nn.ModuleList)):
                member = nn.ModuleList(member)
            setattr(self, name, member)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._written(self, *args, **kwargs)


def graph_of(model: nn.Module, inputs: Inputs, *, train: bool = False) -> SkipGraph:
    """The graph of operators, before anybody has looked for skips."""
    args, kwargs = ((), inputs) if isinstance(inputs, dict) else (inputs, {})
    return build(capture(model, args, kwargs, train=train))


def detected(model: nn.Module, inputs: Inputs, *, train: bool = False) -> SkipGraph:
    """The graph with its merges and skips."""
    graph = graph_of(model, inputs, train=train)
    find_skips(graph)
    return graph


def image(channels: int = 8, size: int = 16, batch: int = 2) -> torch.Tensor:
    """(N, C, H, W) without data."""
    return torch.empty(batch, channels, size, size, device="meta")


def tokens(features: int = 8, length: int = 16, batch: int = 2) -> torch.Tensor:
    """(N, L, C) without data."""
    return torch.empty(batch, length, features, device="meta")


def conv(channels: int = 8, width: int | None = None, stride: int = 1) -> nn.Conv2d:
    """A 3 × 3 convolution that keeps the resolution, unless it is strided."""
    return nn.Conv2d(channels, width or channels, 3, stride, padding=1, device="meta")


def block(channels: int = 8, width: int | None = None, stride: int = 1, depth: int = 2) -> nn.Sequential:
    """``depth`` convolutions, each with its ReLU."""
    layers: list[nn.Module] = []
    for place in range(depth):
        layers += [conv(channels if place == 0 else width or channels, width, stride if place == 0 else 1), nn.ReLU()]
    return nn.Sequential(*layers)
