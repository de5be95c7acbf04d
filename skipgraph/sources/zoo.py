"""Models of libraries by name: ``timm:resnet50``, ``torchvision:deeplabv3_resnet50``."""

from __future__ import annotations

import difflib
import functools
import importlib.util
import inspect
import re
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

import torch

from skipgraph.errors import MissingDependencyError, SourceError
from skipgraph.sources.calls import parse_call
from skipgraph.sources.registry import Example, Kind, Recipe, register
from skipgraph.sources.user_code import running

_IMAGE_SIZE = 224  # of a model whose weights were made for no size in particular
_FRAMES = 16


def library(name: str, extra: str) -> ModuleType:
    """Import an optional library.

    Raises
    ------
    MissingDependencyError
        If it is not installed.
    BuildError
        If it does not import.
    """
    if importlib.util.find_spec(name.partition(".")[0]) is None:
        raise MissingDependencyError(
            f"{name.partition('.')[0]} is not installed", f'Install it: pip install "skipgraph[{extra}]"'
        )
    with running(f"importing {name}", f"Check that {name}, torchvision and torch fit one another: pip check"):
        return importlib.import_module(name)


def _unknown(name: str, zoo: str, names: Iterable[str]) -> SourceError:
    near = difflib.get_close_matches(name, list(names), n=3)
    hint = f"Did you mean {' or '.join(near)}?" if near else f"{zoo}'s documentation lists its models."
    return SourceError(f"{zoo} has no model {name!r}", hint)


def _timm_recipe(match: re.Match[str], pretrained: bool) -> Recipe:
    call = parse_call(match["object"])
    timm = library("timm", "timm")
    if not timm.is_model(call.name):
        raise _unknown(call.name, "timm", timm.list_models())

    def example(model: torch.nn.Module) -> Example:
        data = timm.data.resolve_model_data_config(model, args=call.kwargs)  # img_size, in_chans
        return (torch.empty(1, *data["input_size"], device="meta"),), {}

    return Recipe(
        build=functools.partial(timm.create_model, call.name, *call.args, pretrained=pretrained, **call.kwargs),
        example=example,
        weights="pretrained" if pretrained else "random",
        ready=pretrained,
    )


def _torchvision_recipe(match: re.Match[str], pretrained: bool) -> Recipe:
    call = parse_call(match["object"])
    models = library("torchvision.models", "torchvision")
    if call.name not in models.list_models():
        raise _unknown(call.name, "torchvision", models.list_models())
    builder = models.get_model_builder(call.name)
    available = list(models.get_model_weights(call.name))
    if pretrained and not available:
        raise SourceError(f"torchvision has no weights for {call.name}", "Leave --pretrained out.")
    weights: dict[str, Any] = {"weights": "DEFAULT" if pretrained else None}
    if not pretrained and "weights_backbone" in inspect.signature(builder).parameters:
        weights["weights_backbone"] = None
    return Recipe(
        build=functools.partial(builder, *call.args, **{**weights, **call.kwargs}),
        example=_torchvision_example(builder, available),
        weights="pretrained" if pretrained else "random",
        ready=pretrained,
    )


def _torchvision_example(builder: Callable[..., Any], available: list[Any]) -> Callable[[torch.nn.Module], Example]:
    """What the weights of this model were evaluated on, as far as torchvision says it."""
    preset = getattr(available[0].transforms, "keywords", {}) if available else {}
    size = preset.get("crop_size") or preset.get("resize_size") or _IMAGE_SIZE
    family = builder.__module__.split(".")[2]

    def example(model: torch.nn.Module) -> Example:
        own = getattr(model, "image_size", size)  # some take one size alone, and another one with weights
        height, width = (own, own) if isinstance(own, int) else (own[0], own[-1])
        image = torch.empty(1, 3, height, width, device="meta")
        if family == "video":
            frames = max(_FRAMES, available[0].meta.get("min_temporal_size", 1)) if available else _FRAMES
            return (torch.empty(1, 3, frames, height, width, device="meta"),), {}
        if family == "optical_flow":
            return (image, image.clone()), {}
        if family == "detection":
            return ([image[0]],), {}
        return (image,), {}

    return example


def _timm_specs() -> list[str]:
    return [f"timm:{name}" for name in library("timm", "timm").list_models()]


def _torchvision_specs() -> list[str]:
    return [f"torchvision:{name}" for name in library("torchvision.models", "torchvision").list_models()]


for _name, _recipe, _specs, _library in (
    ("timm", _timm_recipe, _timm_specs, "timm"),
    ("torchvision", _torchvision_recipe, _torchvision_specs, "torchvision.models"),
):
    _pattern = re.compile(rf"{_name}:(?P<object>.+)", re.DOTALL)
    register(Kind(_name, _pattern, _recipe, f"{_name}:NAME", specs=_specs, library=_library))
