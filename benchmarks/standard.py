"""The standard set: networks whose skips are rewritten and timed, with an input each. Weights are random, and seeded.

U-Net and U-Net++ are those of ``fixtures/``, at the sizes of their papers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipgraph.sources import load

FIXTURES = Path(__file__).parents[1] / "fixtures"


class Block(nn.Module):
    """Attention and a feed-forward network, each with a norm before and a shortcut around it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project_in, self.project_out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed_forward = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        """(batch, tokens, width) to the same."""
        heads = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.project_in(self.norm1(tokens)).chunk(3, dim=-1)
        )
        tokens = tokens + self.project_out(F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))
        return tokens + self.feed_forward(self.norm2(tokens))


class UViT(nn.Module):
    """The transformer of U-ViT on its tokens: blocks of the second half read those of the first, joined by a concat.

    F. Bao et al.: All are Worth Words: A ViT Backbone for Diffusion Models, CVPR 2023.
    """

    def __init__(self, width: int = 384, depth: int = 12, heads: int = 6, tokens: int = 256) -> None:
        super().__init__()
        self.positions = nn.Parameter(0.02 * torch.randn(1, tokens, width))
        self.first = nn.ModuleList(Block(width, heads) for _ in range(depth // 2))
        self.joins = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(depth // 2))
        self.second = nn.ModuleList(Block(width, heads) for _ in range(depth // 2))
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(batch, tokens, width) to the same."""
        tokens = tokens + self.positions
        skips = []
        for block in self.first:
            tokens = block(tokens)
            skips.append(tokens)
        for join, block in zip(self.joins, self.second, strict=True):
            tokens = block(join(torch.cat([tokens, skips.pop()], dim=-1)))
        return self.norm(tokens)


@dataclass(frozen=True)
class Case:
    """A model to build, and the shape of its only input."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]

    def model(self) -> nn.Module:
        """The model, in evaluation."""
        torch.manual_seed(0)
        return self.build().eval()

    def inputs(self) -> tuple[Tensor]:
        """A random input."""
        return (torch.randn(self.shape, generator=torch.Generator().manual_seed(0)),)


def _loaded(spec: str) -> Callable[[], nn.Module]:
    return lambda: load(spec, device="cpu").model


# What takes longest to rewrite stands last.
STANDARD: dict[str, Case] = {
    "unet_256": Case(_loaded(f"{FIXTURES / 'unet.py'}:UNet(width=64)"), (1, 3, 256, 256)),
    "densenet121": Case(_loaded("torchvision:densenet121"), (1, 3, 224, 224)),
    "uvit": Case(UViT, (1, 256, 384)),
    "unet_plus_plus": Case(_loaded(f"{FIXTURES / 'unet_plus_plus.py'}:UNetPlusPlus(width=32)"), (1, 3, 256, 256)),
    "unet_512": Case(_loaded(f"{FIXTURES / 'unet.py'}:UNet(width=64)"), (1, 3, 512, 512)),
    "resnet50": Case(_loaded("torchvision:resnet50"), (1, 3, 224, 224)),
    "densenet201": Case(_loaded("torchvision:densenet201"), (1, 3, 224, 224)),
}
