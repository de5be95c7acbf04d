"""Models of the transformers library: ``hf:DIRECTORY``, ``hf:config.json``, ``hf:gpt2``.

The configuration alone is read, and the model is built from it with fresh weights. A model type that the library
knows stands for its default configuration. Nothing is downloaded unless pretrained weights are asked for.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from skipgraph.errors import SourceError
from skipgraph.sources.registry import Example, Kind, Recipe, register
from skipgraph.sources.user_code import described, running
from skipgraph.sources.zoo import library

_LIBRARY = "transformers.models.auto.modeling_auto"
_TOKENS = 128
_DECODER_TOKENS = 32
_SAMPLES = 16_000  # one second of speech
_IMAGE_SIZE = 224


def _recipe(match: re.Match[str], pretrained: bool) -> Recipe:
    name = match["name"]
    transformers = library("transformers", "huggingface")
    config = _config(transformers, name, pretrained)
    with running(f"importing the model of {type(config).__name__}"):
        known = transformers.MODEL_MAPPING.get(type(config), None)  # before anything is built on the meta device
    if known is None:
        raise SourceError(
            f"transformers' AutoModel has no model for {type(config).__name__}",
            "Build it in a file of your own, and give that: path/model.py.",
        )

    def build() -> torch.nn.Module:
        if not pretrained:
            model: torch.nn.Module = transformers.AutoModel.from_config(config)
            return model
        with running(
            f"loading the pretrained weights of {name}",
            "Give a directory that holds config.json and the weights, or a name that the hub can be asked for.",
        ):
            loaded: torch.nn.Module = transformers.AutoModel.from_pretrained(name)
            return loaded

    return Recipe(build, _example, "pretrained" if pretrained else "random", ready=pretrained)


def _config(transformers: Any, name: str, pretrained: bool) -> Any:
    path = Path(name)
    if name.endswith(".json") and not path.is_file():
        raise SourceError(f"no such file: {name}", "Check the path.")
    if path.is_dir() and not (path / "config.json").is_file():
        raise SourceError(f"the directory {name} holds no config.json", "Give a model's directory, or its config.json.")
    if not path.exists() and name in transformers.CONFIG_MAPPING:
        return transformers.CONFIG_MAPPING[name]()
    try:
        return transformers.AutoConfig.from_pretrained(name, local_files_only=path.exists() or not pretrained)
    except Exception as error:
        words = described(error).splitlines()[0]
        if path.exists():
            raise SourceError(
                f"{name} holds no configuration that transformers can read: {words}",
                "It must be the config.json of a model, with its model_type.",
            ) from error
        raise SourceError(
            f"{name!r} is no path, no model type of transformers, and not in the hub's local cache: {words}",
            "Check the name; or download its config.json and give that (hf:config.json), or ask for --pretrained.",
        ) from error


def _example(model: torch.nn.Module) -> Example | None:
    """Inputs of the sizes that the configuration speaks of, by the names that the forward takes."""
    config: Any = model.config
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    vision = getattr(config, "vision_config", config)
    main = str(getattr(model, "main_input_name", "input_ids"))
    makers = {
        "input_ids": lambda: _ids(min(_TOKENS, _positions(text))),
        "pixel_values": lambda: _image(vision),
        "pixel_values_videos": lambda: _video(vision),
        "input_values": lambda: torch.empty(1, _SAMPLES, device="meta"),
        "input_features": lambda: _features(config),
    }
    if main not in makers:
        return None
    if main == "pixel_values" and getattr(config, "num_frames", None):
        return (), {main: _video(config)}
    inputs = {main: makers[main]()}
    if vision is not config and "pixel_values" not in inputs:
        inputs["pixel_values"] = _image(vision)
    if getattr(config, "is_encoder_decoder", False) and main != "pixel_values":
        inputs["decoder_input_ids"] = _ids(min(_DECODER_TOKENS, _positions(text)))
    return (), inputs


def _positions(config: Any) -> int:
    return int(getattr(config, "max_position_embeddings", None) or _TOKENS)


def _ids(tokens: int) -> torch.Tensor:
    return torch.zeros(1, tokens, dtype=torch.int64, device="meta")


def _sizes(config: Any) -> tuple[int, int, int]:
    """Channels, height and width."""
    size = getattr(config, "image_size", None) or _IMAGE_SIZE
    height, width = (size, size) if isinstance(size, int) else (size[0], size[-1])
    return int(getattr(config, "num_channels", None) or 3), height, width


def _image(config: Any) -> torch.Tensor:
    return torch.empty(1, *_sizes(config), device="meta")


def _video(config: Any) -> torch.Tensor:
    channels, height, width = _sizes(config)
    return torch.empty(1, getattr(config, "num_frames", 16), channels, height, width, device="meta")


def _features(config: Any) -> torch.Tensor:
    bins = getattr(config, "num_mel_bins", 80)
    return torch.empty(1, bins, 2 * getattr(config, "max_source_positions", 1500), device="meta")


def _specs() -> list[str]:
    """The model types of which the library has a default configuration and a model."""
    models = library(_LIBRARY, "huggingface").MODEL_MAPPING_NAMES
    return [f"hf:{name}" for name in models if name in library("transformers", "huggingface").CONFIG_MAPPING]


register(
    Kind(
        "hf",
        re.compile(r"hf:(?P<name>.+)"),
        _recipe,
        "hf:DIRECTORY-or-config.json",
        specs=_specs,
        library=_LIBRARY,
    )
)
