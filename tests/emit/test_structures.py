"""What models hold beside layers in a tree: shared and unused tensors, constants, dtypes, modes."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.emit.writing import assert_same_runs, assert_same_state, split, write

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

IMAGE = (torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(1)),)


def image(*_: Any) -> tuple[Tensor]:
    return IMAGE


class SharedLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.body = nn.Conv2d(4, 4, 3, padding=1)
        self.again = self.body

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.again(self.body(x).relu())


class TiedWeights(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.body = nn.Linear(6, 6)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.body(self.embedding(tokens))))


class OddTensors(nn.Module):
    """Parameters, buffers and plain tensors of every kind, used or not."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.unused = nn.Parameter(torch.ones(3))
        self.register_parameter("absent", None)
        self.register_buffer("kept", torch.arange(4.0).view(1, 4, 1, 1))
        self.register_buffer("small", torch.tensor([0.5, 2.0, 1.0, 4.0]).view(1, 4, 1, 1), persistent=False)
        self.register_buffer("large", torch.linspace(0, 1, 4 * 144).view(1, 4, 12, 12), persistent=False)
        self.register_buffer("nothing", None)
        self.plain = torch.full((1, 4, 1, 1), 3.0)
        self.scales = nn.ParameterList([nn.Parameter(torch.full((1,), 1.5)), nn.Parameter(torch.ones(4, 1, 1))])
        self.named = nn.ModuleDict({"first": nn.Conv2d(4, 4, 1), "second": nn.Identity()})
        self.by_name = nn.ParameterDict({"shift": nn.Parameter(torch.ones(1))})
        self.missing: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x) * self.kept + self.small * self.plain
        x = x * self.scales[0] * self.scales[1] + self.large
        mask = torch.tensor([1.0, 0.0, 1.0, 1.0]).view(1, 4, 1, 1)
        return self.named["second"](self.named["first"](x * mask)) + self.by_name["shift"]


class NonFinite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("mask", torch.tensor([0.0, -math.inf, 0.0, 0.0]), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return (self.linear(x) + self.mask).softmax(-1)


class MixedDtypes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4).to(torch.bfloat16)
        self.norm = nn.LayerNorm(4)
        self.second = nn.Linear(4, 4, dtype=torch.float64)
        self.register_buffer("table", torch.arange(4.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.second((self.norm(self.first(x).float()) + self.table).double())


class PartlyFrozen(nn.Module):
    """A backbone whose norms stay in evaluation, and whose first layer is not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))
        self.head = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
        self.stem[0].requires_grad_(False)

    def train(self, mode: bool = True) -> PartlyFrozen:
        super().train(mode)
        self.stem.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.head(self.stem(x)), 0.25, self.training)


class Modes(nn.Module):
    """Other calls in training than in evaluation, in one inner module and not in the other."""

    class Noisy(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.conv = nn.Conv2d(width, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            if self.training:
                x = x + torch.randn_like(x)
            return x.relu()

    def __init__(self) -> None:
        super().__init__()
        self.first = self.Noisy(3)
        self.second = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.first(x)
        y = self.second(x)
        return (y, x) if self.training else y


class Results(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor, *, scale: float = 2.0) -> dict[str, Any]:
        x = self.conv(x)
        return {"out": x * scale, "levels": [x, (x.mean(),)]}


class Ordered(nn.Module):
    """A result that is an ordered dictionary, as those of torchvision's segmentation models."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.aux = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        x = self.conv(x)
        result = OrderedDict()
        result["out"] = x.relu()
        result["aux"] = self.aux(x)
        return result


class Plain(nn.Module):
    """A norm, a shortcut, and a layer that is used twice, in any dtype and layout."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.body = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        return self.body(self.body(x).relu()) + x


class Awkward(nn.Module):
    """Names that are no identifiers, or that mean something already."""

    def __init__(self) -> None:
        super().__init__()
        self.add_module("0", nn.Conv2d(3, 4, 1))
        self.add_module("if_", nn.Conv2d(4, 4, 1))
        self.torch = nn.Conv2d(4, 4, 1)
        self.inner = nn.Sequential()
        self.inner.add_module("conv-1", nn.Conv2d(4, 4, 1))
        self.inner.add_module("norm", nn.BatchNorm2d(4))

    def forward(self, x: Tensor) -> Tensor:
        x = getattr(self, "0")(x)
        return self.inner(self.torch(self.if_(x)))


CASES: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "shared layer": (SharedLayer, IMAGE),
    "tied weights": (TiedWeights, (torch.tensor([[1, 2, 3], [10, 9, 0]]),)),
    "odd tensors": (OddTensors, IMAGE),
    "numbers that are not finite": (NonFinite, (torch.randn(2, 4),)),
    "mixed dtypes": (MixedDtypes, (torch.randn(2, 4).to(torch.bfloat16),)),
    "partly frozen": (PartlyFrozen, IMAGE),
    "modes": (Modes, IMAGE),
    "results": (Results, {"x": IMAGE[0], "scale": 3.0}),
    "awkward names": (Awkward, IMAGE),
    "ordered results": (Ordered, IMAGE),
    "float64": (lambda: Plain().double(), (IMAGE[0].double(),)),
    "bfloat16": (lambda: Plain().bfloat16(), (IMAGE[0].bfloat16(),)),
    "channels last": (
        lambda: Plain().to(memory_format=torch.channels_last),
        (IMAGE[0].to(memory_format=torch.channels_last),),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_same_tensors_and_results(name: str, tmp_path: Path) -> None:
    kind, inputs = CASES[name]
    torch.manual_seed(0)
    alone = write(kind(), inputs, tmp_path)
    assert_same_state(alone)
    assert_same_runs(alone, inputs)
    assert type(alone.model(*split(inputs)[0], **split(inputs)[1])) is type(
        alone.original(*split(inputs)[0], **split(inputs)[1])
    )
