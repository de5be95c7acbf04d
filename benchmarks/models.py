"""Twenty public models of all families, with an input each, for the benchmarks that compare figures.

Weights are random: no figure here depends on them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from skipgraph.sources.torchvision_operators import declare_missing

declare_missing()  # before torchvision, timm or segmentation_models_pytorch is imported


@dataclass(frozen=True)
class Example:
    """A model to build, and the shape of its input; ``ids`` says that the input is token ids.

    The batch is of two where one image leaves a batch norm with a single value, which it refuses in training.
    """

    build: Callable[[], torch.nn.Module]
    shape: tuple[int, ...] = (1, 3, 224, 224)
    ids: bool = False

    def input(self) -> torch.Tensor:
        """A random input."""
        return torch.randint(0, 100, self.shape) if self.ids else torch.randn(self.shape)


class LastHiddenState(torch.nn.Module):
    """A model of transformers as a function from tensor to tensor, which is all that fvcore traces."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """The last hidden state."""
        state: torch.Tensor = self.model(tokens, use_cache=False).last_hidden_state
        return state


def _made(module: str, name: str, *args: Any, **options: Any) -> Callable[[], torch.nn.Module]:
    def build() -> torch.nn.Module:
        torch.manual_seed(0)
        model: torch.nn.Module = getattr(importlib.import_module(module), name)(*args, **options)
        return model.eval()

    return build


def _torchvision(name: str, **options: Any) -> Callable[[], torch.nn.Module]:
    module = "torchvision.models.segmentation" if name.startswith("deeplab") else "torchvision.models"
    return _made(module, name, weights=None, **options)


def _timm(name: str) -> Callable[[], torch.nn.Module]:
    return _made("timm", "create_model", name)


def _segmentation(name: str, encoder: str) -> Callable[[], torch.nn.Module]:
    return _made("segmentation_models_pytorch", name, encoder_name=encoder, encoder_weights=None)


def _transformer(model: str, config: str, **options: Any) -> Callable[[], torch.nn.Module]:
    def build() -> torch.nn.Module:
        torch.manual_seed(0)
        transformers = importlib.import_module("transformers")
        return LastHiddenState(getattr(transformers, model)(getattr(transformers, config)(**options))).eval()

    return build


MODELS: dict[str, Example] = {
    "resnet50": Example(_torchvision("resnet50")),
    "densenet121": Example(_torchvision("densenet121")),
    "vgg16_bn": Example(_torchvision("vgg16_bn")),
    "inception_v3": Example(_torchvision("inception_v3", init_weights=False), (2, 3, 299, 299)),
    "mobilenet_v2": Example(_torchvision("mobilenet_v2")),
    "deeplabv3_resnet50": Example(_torchvision("deeplabv3_resnet50", weights_backbone=None), (2, 3, 224, 224)),
    "vit_b_16": Example(_torchvision("vit_b_16")),
    "swin_t": Example(_torchvision("swin_t")),
    "convnext_tiny": Example(_torchvision("convnext_tiny")),
    "hrnet_w18": Example(_timm("hrnet_w18")),
    "efficientnet_b4": Example(_timm("efficientnet_b4")),
    "dpn68": Example(_timm("dpn68")),
    "gmlp_s16": Example(_timm("gmlp_s16_224")),
    "coat_lite_tiny": Example(_timm("coat_lite_tiny")),
    "unet_resnet34": Example(_segmentation("Unet", "resnet34"), (1, 3, 256, 256)),
    "segformer_b0": Example(_segmentation("Segformer", "mit_b0"), (1, 3, 256, 256)),
    "basic_unet_plus_plus": Example(
        _made("monai.networks.nets", "BasicUNetPlusPlus", spatial_dims=2, in_channels=1, out_channels=2), (1, 1, 96, 96)
    ),
    "dynunet_3d": Example(
        _made("monai.networks.nets", "DynUNet", 3, 1, 2, [3, 3, 3], [1, 2, 2], [2, 2]), (1, 1, 32, 32, 32)
    ),
    "gpt2": Example(_transformer("GPT2Model", "GPT2Config"), (1, 128), ids=True),
    "bert": Example(_transformer("BertModel", "BertConfig"), (1, 128), ids=True),
}
