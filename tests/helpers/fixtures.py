"""Loads the files in fixtures/ by path, and reads from their docstrings what must be found in them."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor, nn

FOLDER = Path(__file__).parents[2] / "fixtures"

COUNTS_LINE = re.compile(
    r"^Skips: (?P<skips>\d+) "
    r"\(add (?P<add>\d+), concat (?P<concat>\d+), gated (?P<gated>\d+); "
    r"short (?P<short>\d+), long (?P<long>\d+); "
    r"identity (?P<identity>\d+), projected (?P<projected>\d+)\); "
    r"edges (?P<edges>\d+)$",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Fixture:
    """One file of fixtures/."""

    name: str
    exported: tuple[str, ...]
    model_class: type[nn.Module]
    example_inputs: tuple[Tensor, ...] | dict[str, Tensor]
    documented: tuple[dict[str, int], ...]  # one entry a counts line; there must be exactly one

    @property
    def counts(self) -> dict[str, int]:
        """What the docstring says must be found."""
        (counts,) = self.documented
        return counts

    def run(self, model: nn.Module, batch: int = 1) -> Tensor:
        """The result of ``model`` for a batch whose first sample is the example; the others are its mirror image."""
        if isinstance(self.example_inputs, dict):
            result = model(**{name: _batched(tensor, batch) for name, tensor in self.example_inputs.items()})
        else:
            result = model(*(_batched(tensor, batch) for tensor in self.example_inputs))
        assert isinstance(result, torch.Tensor)
        return result


def _batched(tensor: Tensor, batch: int) -> Tensor:
    return torch.cat([tensor, *[tensor.flip(-1)] * (batch - 1)])


def names() -> list[str]:
    """Names of all fixtures: their files without suffix."""
    return sorted(path.stem for path in FOLDER.glob("*.py"))


@cache
def load(name: str) -> Fixture:
    """Import ``fixtures/<name>.py``, which is part of no package."""
    spec = importlib.util.spec_from_file_location(f"fixture_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = COUNTS_LINE.finditer(module.__doc__ or "")
    return Fixture(
        name=name,
        exported=tuple(module.__all__),
        model_class=getattr(module, module.__all__[0]),
        example_inputs=module.example_inputs,
        documented=tuple({key: int(value) for key, value in match.groupdict().items()} for match in found),
    )
