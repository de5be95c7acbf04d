"""The lists of `benchmarks/zoo/`: what a line of them means, and how it becomes a model with inputs.

A list is a TOML file of one library::

    version = "1.0.31"                                  # of the library that the list was written for
    imports = "import timm"                             # run before the expressions below
    build = "timm.create_model({name!r})"               # a model; the default, "{name}" is the line's name
    inputs = "image(96)"                                # a tensor, a tuple of positional or a dict of keyword inputs

    [models]
    resnet10t = {}
    naflexvit = { inputs = "image(224)" }               # what is other than the default

Nothing is downloaded: weights are random.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

LISTS = Path(__file__).parent / "zoo"


@dataclass(frozen=True)
class Entry:
    """One line of a list: all of it is text, so that it can be sent to another process."""

    library: str
    name: str
    imports: str
    build: str
    inputs: str

    def model(self) -> nn.Module:
        """The model in evaluation, with weights from seed 0."""
        torch.manual_seed(0)
        model: nn.Module = eval(self.build, self._names()).eval()
        return model

    def example(self) -> Any:
        """Its inputs, from seed 0."""
        torch.manual_seed(0)
        return eval(self.inputs, self._names())

    def _names(self) -> dict[str, Any]:
        names: dict[str, Any] = {"torch": torch, "nn": nn, "image": image, "volume": volume, "ids": ids}
        exec(self.imports, names)
        return names


def read(path: Path) -> tuple[str, list[Entry]]:
    """The library's version, and the entries of one list."""
    table = tomllib.loads(path.read_text())
    default = {key: table.get(key, "") for key in ("imports", "build", "inputs")}
    entries = []
    for name, own in table["models"].items():
        texts = {key: text.replace("{name}", name) for key, text in (default | own).items()}
        entries.append(Entry(path.stem, name, **texts))
    return table["version"], entries


def image(size: int, channels: int = 3, batch: int = 1) -> torch.Tensor:
    """A square picture of noise."""
    return torch.randn(batch, channels, size, size)


def volume(size: int, channels: int = 1, depth: int | None = None, batch: int = 1) -> torch.Tensor:
    """A volume of noise, or a short film."""
    return torch.randn(batch, channels, depth or size, size, size)


def ids(length: int = 16, below: int = 100, batch: int = 1) -> torch.Tensor:
    """Ids of tokens."""
    return torch.randint(3, below, (batch, length))
