from __future__ import annotations

import json
from pathlib import Path

import pytest

from skipgraph.errors import SourceError
from skipgraph.sources import load

GPT2 = {"model_type": "gpt2", "n_layer": 2, "n_head": 2, "n_embd": 16, "vocab_size": 50, "n_positions": 64}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(GPT2))
    return path


def test_configuration_file_and_directory(config: Path) -> None:
    for spec in (f"hf:{config}", f"hf:{config.parent}"):
        source = load(spec)
        assert type(source.model).__name__ == "GPT2Model"
        assert len(source.model.h) == 2
        assert source.on_meta
        assert source.kwargs["input_ids"].shape == (1, 64)  # no more than the model has positions


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("vit", {"pixel_values": (1, 3, 224, 224)}),
        ("t5", {"input_ids": (1, 128), "decoder_input_ids": (1, 32)}),
        ("clip", {"input_ids": (1, 77), "pixel_values": (1, 3, 224, 224)}),
        ("whisper", {"input_features": (1, 80, 3000), "decoder_input_ids": (1, 32)}),
    ],
)
def test_model_types_stand_for_their_default_configuration(name: str, shapes: dict[str, tuple[int, ...]]) -> None:
    source = load(f"hf:{name}")
    assert {key: tuple(value.shape) for key, value in source.kwargs.items()} == shapes


def test_unknown_name_says_how_to_go_on() -> None:
    with pytest.raises(SourceError, match="is no path, no model type") as caught:
        load("hf:nobody/nothing-at-all")
    assert "config.json" in caught.value.remedy


def test_directory_without_configuration(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"holds no config\.json"):
        load(f"hf:{tmp_path}")


def test_file_that_is_no_configuration(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text("[1, 2]")
    with pytest.raises(SourceError, match="holds no configuration"):
        load(f"hf:{path}")


def test_missing_file() -> None:
    with pytest.raises(SourceError, match="no such file"):
        load("hf:absent/config.json")
