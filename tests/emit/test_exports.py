"""Emitted models as .pt2 and .onnx: read again, run, at other batch sizes."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING, Any

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from skipgraph.capture import runnable
from skipgraph.emit import emitted
from skipgraph.emit.onnx import onnx_file
from skipgraph.errors import EmitError, MissingDependencyError, VerificationError
from tests.helpers import fixtures
from tests.helpers.rerun import redrawn

if TYPE_CHECKING:
    from skipgraph.emit import Emitted


def emitted_with(name: str, **forms: bool) -> Emitted:
    fixture = fixtures.load(name)
    torch.manual_seed(0)
    model = redrawn(fixture.model_class()).eval()
    assert isinstance(fixture.example_inputs, tuple)
    captured = runnable(model, fixture.example_inputs)
    return emitted(captured, (fixture.example_inputs, {}), title="A model.", **forms)


@pytest.mark.parametrize("name", ["densenet", "transformer_encoder"])
def test_pt2_runs_at_every_batch_size(name: str) -> None:
    result = emitted_with(name, pt2=True)
    content = result.files["model.pt2"]
    assert isinstance(content, bytes)
    program = torch.export.load(io.BytesIO(content)).module()
    for batch in (1, 2, 3):
        torch.testing.assert_close(
            fixtures.load(name).run(program, batch), fixtures.load(name).run(result.model.eval(), batch)
        )


@pytest.mark.parametrize("name", ["densenet", "transformer_encoder"])
def test_onnx_runs_at_every_batch_size(name: str) -> None:
    result = emitted_with(name, onnx=True)
    content = result.files["model.onnx"]
    assert isinstance(content, bytes)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def run(*inputs: Tensor) -> Tensor:
        names = [one.name for one in session.get_inputs()]
        return torch.as_tensor(
            session.run(None, {name: one.numpy() for name, one in zip(names, inputs, strict=True)})[0]
        )

    for batch in (1, 3):
        with torch.no_grad():
            wanted = fixtures.load(name).run(result.model.eval(), batch)
        torch.testing.assert_close(fixtures.load(name).run(run, batch), wanted, rtol=1e-3, atol=1e-4)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) * 2


def test_other_numbers_of_onnxruntime_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Off(onnxruntime.InferenceSession):
        def run(self, *args: Any) -> Any:
            return [one + 1 for one in super().run(*args)]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Off)
    with pytest.raises(VerificationError, match="onnxruntime's output is off by 1"):
        onnx_file(Twice(), ((torch.randn(1, 3),), {}))


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_names_the_extra(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=r"skipgraph\[onnx\]"):
        onnx_file(Twice(), ((torch.randn(1, 3),), {}))


def test_what_the_exporter_cannot_do_is_told() -> None:
    class Decides(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2 if x.sum() > 0 else x

    with pytest.raises(EmitError, match="cannot export the model"):
        onnx_file(Decides(), ((torch.randn(1, 3),), {}))
