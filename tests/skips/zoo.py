"""The models that the metamorphic tests transform: fixtures, and models of public libraries at small sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
import torchvision.models as vision
from torch import nn
from torchvision.models.swin_transformer import SwinTransformer

from tests.helpers import fixtures
from tests.helpers.tracing import Inputs


@dataclass(frozen=True)
class Specimen:
    """A model that is built without data.

    ``wider`` holds the arguments that give it other widths; ``sizes`` the shapes of its inputs without the batch, None
    for those of a fixture.
    """

    name: str
    factory: Callable[..., nn.Module]
    wider: dict[str, Any] = field(default_factory=dict)
    sizes: tuple[tuple[int, ...], ...] | None = None

    def build(self, **arguments: Any) -> nn.Module:
        with torch.device("meta"):
            return self.factory(**arguments).eval()

    def inputs(self, batch: int = 2) -> Inputs:
        if self.sizes is not None:
            return tuple([torch.empty(batch, *size, device="meta") for size in self.sizes])
        example = fixtures.load(self.name).example_inputs
        if isinstance(example, dict):
            return {name: _enlarged(tensor, batch) for name, tensor in example.items()}
        return tuple([_enlarged(tensor, batch) for tensor in example])


def _enlarged(tensor: torch.Tensor, batch: int) -> torch.Tensor:
    return torch.empty(batch, *tensor.shape[1:], dtype=tensor.dtype, device="meta")


def _fixture(name: str, **wider: Any) -> Specimen:
    return Specimen(name, fixtures.load(name).model_class, wider)


def _library(name: str, factory: Callable[..., nn.Module], size: int = 64, **wider: Any) -> Specimen:
    return Specimen(name, factory, wider, ((3, size, size),))


def _vision_transformer(width: int = 64) -> nn.Module:
    return vision.VisionTransformer(64, 16, num_layers=3, num_heads=4, hidden_dim=width, mlp_dim=2 * width)


def _swin(width: int = 24) -> nn.Module:
    return SwinTransformer([4, 4], width, [2, 2], [2, 4], [4, 4])


class ThreeOperandBlocks(nn.Module):
    """x + f(x) + g(x), five times, summed in either order."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.layers = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(10))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        features = self.stem(image)
        for place, (left, right) in enumerate(zip(self.layers[::2], self.layers[1::2], strict=True)):
            wide, narrow = torch.relu(left(features)), torch.relu(right(features))
            features = features + wide + narrow if place % 2 else wide + (narrow + features)
        return features


class PolynomialBlocks(nn.Module):
    """x + F(x) + F(F(x)) of PolyNet: two binary residuals a block (X. Zhang et al., PolyNet, CVPR 2017)."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.bodies = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(3))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        features = self.stem(image)
        for body in self.bodies:
            once = torch.relu(body(features))
            features = features + once + torch.relu(body(once))
        return features


class SkipsCollected(nn.Module):
    """A chain of layers whose results are all summed at the end, one after the other."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.layers = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(5))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        features = self.stem(image)
        collected = features
        for layer in self.layers:
            features = torch.relu(layer(features))
            collected = collected + features
        return collected


SPECIMENS = {
    specimen.name: specimen
    for specimen in (
        _fixture("attention_unet", width=12),
        _fixture("conditioned_unet", width=24),
        _fixture("csp", width=12),
        _fixture("densenet", growth=12),
        _fixture("dla", width=12),
        _fixture("dual_path", width=24),
        _fixture("fpn", channels=24),
        _fixture("highway", width=96),
        _fixture("hrnet", width=24),
        _fixture("inception", width=12),
        _fixture("parallel_attention", width=96),
        _fixture("resnet", widths=(24, 48, 96, 96)),
        _fixture("squeeze_excitation", widths=(24, 48, 96)),
        _fixture("transformer_encoder"),
        _fixture("unet_plus_plus", width=6),
        _fixture("unet_sum", width=12),
        _fixture("uvit"),
        _fixture("wavenet", width=24),
        _library("resnet18", vision.resnet18),
        _library("vision_transformer", _vision_transformer, width=96),
        _library("swin", _swin, width=32),
        _library("googlenet", partial(vision.googlenet, init_weights=False, aux_logits=False)),
        _library("convnext", partial(timm.create_model, "convnext_atto"), dims=(48, 96, 192, 384)),
        _library("selective_kernel", partial(timm.create_model, "skresnet18")),
        _library("hrnet_library", partial(timm.create_model, "hrnet_w18_small")),
        _library("three_operands", ThreeOperandBlocks, size=16, width=12),
        _library("polynomial", PolynomialBlocks, size=16, width=12),
        _library("collected", SkipsCollected, size=16, width=12),
        _library("smp_unet", partial(smp.Unet, "resnet18", encoder_weights=None)),
        _library(
            "smp_fpn",
            partial(smp.FPN, "resnet18", encoder_weights=None),
            decoder_pyramid_channels=320,
            decoder_segmentation_channels=160,
        ),
        _library("smp_linknet", partial(smp.Linknet, "resnet18", encoder_weights=None)),
    )
}
