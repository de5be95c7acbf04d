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

    ``wider`` holds the arguments that give it other widths; ``sizes`` the shapes of its inputs without the batch, in
    order or by name, None for those of a fixture.
    """

    name: str
    factory: Callable[..., nn.Module]
    wider: dict[str, Any] = field(default_factory=dict)
    sizes: tuple[tuple[int, ...], ...] | None = None

    def build(self, **arguments: Any) -> nn.Module:
        with torch.device("meta"):
            return self.factory(**arguments).eval()

    def inputs(self, batch: int = 1) -> Inputs:
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
        _fixture("highway", width=48),
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
        _library("smp_unet", partial(smp.Unet, "resnet18", encoder_weights=None)),
        _library("smp_fpn", partial(smp.FPN, "resnet18", encoder_weights=None), decoder_pyramid_channels=128),
        _library("smp_linknet", partial(smp.Linknet, "resnet18", encoder_weights=None)),
    )
}
