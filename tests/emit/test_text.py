"""What an emitted file reads like, and that it needs nothing but torch and safetensors."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from skipgraph.capture import runnable
from skipgraph.emit import emitted
from skipgraph.emit.branches import merged
from skipgraph.emit.layout import spaced_slices, wrapped
from skipgraph.emit.source import source
from skipgraph.errors import EmitError
from skipgraph.passes.concat_to_sum import ConcatToSum
from skipgraph.rewriting import planned
from tests.emit.test_fixtures import alone
from tests.emit.writing import split, write
from tests.helpers import fixtures


def test_the_unet_reads_as_a_person_writes_it() -> None:
    text = alone("unet").text
    assert text.startswith('"""A model."""\n')
    assert "getattr(" not in text
    assert "= None" not in text.split("def load(")[0]
    assert "nn.Conv2d(3, 64, 3, padding=1, bias=False)," in text
    assert "self.pool = nn.MaxPool2d(2, stride=2)" in text
    level = """\
    def forward(self, x, y):
        x = self.up(x)
        x = torch.cat([y, x], dim=1)
        x = self.conv(x)
        return x"""
    assert alone("unet").forward_of("DecoderLevel") == level


def test_equal_classes_are_written_once() -> None:
    text = alone("transformer_encoder").text
    defined = [node.name for node in ast.parse(text).body if isinstance(node, ast.ClassDef)]
    assert len(defined) == len(set(defined))
    bodies = [ast.dump(node).replace(node.name, "") for node in ast.parse(text).body if isinstance(node, ast.ClassDef)]
    assert len(bodies) == len(set(bodies))


class Scaled(nn.Module):
    def __init__(self, width: int, factor: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width, 3))
        self.register_buffer("shift", torch.zeros(width))
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.weight.t() * self.factor + self.shift)[:, : self.weight.shape[0] - 1]


class Several(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList([Scaled(4, 0.5), Scaled(5, 0.25), Scaled(6, 0.125)])

    def forward(self, x: Tensor) -> list[Tensor]:
        return [part(x) for part in self.parts]


def test_what_differs_between_equal_classes_is_an_argument(tmp_path: Path) -> None:
    text = write(Several(), (torch.randn(2, 3),), tmp_path).text
    assert text.count("class Scaled") == 1
    assert "def __init__(self, weight_size_0, number, index):" in text
    assert "self.weight = nn.Parameter(torch.zeros(weight_size_0, 3))" in text
    assert "Scaled(5, 0.25, 4)" in text
    assert " * self.number" in text


def test_what_modes_share_is_written_once() -> None:
    evaluation = ["x = self.conv(x)", "x = F.dropout(x, training=False)", "return x"]
    training = ["x = self.conv(x)", "x = F.dropout(x, training=True)", "x = x + y", "return x"]
    assert merged(evaluation, evaluation) == evaluation
    assert merged(evaluation, training[:2] + training[3:])[1] == "x = F.dropout(x, training=self.training)"
    assert merged(["a", "b", "return c"], ["a", "d", "return c"]) == [
        "a", "if self.training:", "    d", "else:", "    b", "return c"
    ]  # fmt: skip
    assert merged(["a", "return b"], ["a", "c", "return d"]) == [
        "a", "if self.training:", "    c", "    return d", "return b"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "spaced"),
    [
        ("x = x[:, 1:]", "x = x[:, 1:]"),
        ("x = x[:, :self.size, -1:n:2]", "x = x[:, : self.size, -1:n:2]"),
        ("x = x[a + 1:b[c.d:], 2,]", "x = x[a + 1 : b[c.d :], 2,]"),
        ('torch._assert(y, "x[a.b:c]")', 'torch._assert(y, "x[a.b:c]")'),
    ],
)
def test_slices_are_spaced_as_a_formatter_does(line: str, spaced: str) -> None:
    assert spaced_slices(line) == spaced


def test_long_lines_are_broken() -> None:
    assert wrapped(f"x = f({'a' * 57}, {'b' * 57})") == f"x = f(\n    {'a' * 57}, {'b' * 57}\n)"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Emitted files of all fixtures, and of some rewritten ones."""
    path = tmp_path_factory.mktemp("emitted")
    for name in fixtures.names():
        (path / f"{name}.py").write_text(alone(name).text)
    for name in ("unet", "densenet"):
        fixture = fixtures.load(name)
        result = planned(fixture.model_class().eval(), fixture.example_inputs, ConcatToSum(), inference=name == "unet")
        text = source(result.model, result.inputs, title="Rewritten.", notes=["One thing.", "Another."])
        (path / f"{name}_rewritten.py").write_text(text)
    return path


def test_formatters_and_linters_have_nothing_to_say(folder: Path) -> None:
    for command in (["check", "--isolated"], ["format", "--isolated", "--line-length", "120", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--no-cache", folder], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout


ALONE = """
import runpy, sys
sys.modules |= dict.fromkeys(["skipgraph", "timm", "torchvision", "networkx", "fvcore"])
import torch
for path in sys.argv[1:]:
    names = runpy.run_path(path)
    model = names["build"]().eval()
    given = names["example_inputs"]()
    with torch.device("meta"):
        model = model.to("meta")
        model(*[one.to("meta") for one in given])
"""


def test_torch_is_all_that_is_needed(folder: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    names = ["unet", "unet_rewritten", "densenet_rewritten", "transformer_encoder", "stochastic_depth"]
    command = [sys.executable, "-c", ALONE, *(str(folder / f"{name}.py") for name in names)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr


class Doubles(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        return grad * 2


class Applies(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return Doubles.apply(self.linear(x))


def hooked() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 3))
    model[0].register_forward_hook(lambda module, given, result: result * 2)
    return model


def overwritten() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 3))
    model[0].forward = torch.relu  # type: ignore[method-assign]
    return model


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Applies(), "in the model's own forward: the autograd function"),
        (hooked(), "the layer 0 has hooks"),
        (overwritten(), "the layer 0 has a forward of its own"),
    ],
)
def test_what_cannot_be_written_is_told(model: nn.Module, reason: str) -> None:
    inputs = (torch.randn(2, 3),)
    with pytest.raises(EmitError, match=reason):
        emitted(runnable(model, inputs), split(inputs), title="A model.")
