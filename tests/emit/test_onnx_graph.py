"""Rewritten ONNX files: what is not touched stays, and onnxruntime computes what it did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import skipgraph as sg
from skipgraph.emit import onnx_again
from skipgraph.errors import UsageError, VerificationError
from skipgraph.rewriting import Rewritten
from skipgraph.sources import load
from tests.helpers import fixtures
from tests.helpers.onnx_files import exported
from tests.helpers.rerun import redrawn

CONCATS = sg.ConcatToSum()


class Upsampling(nn.Module):
    """A concat behind an upsampling to the size of the shortcut, which an exporter computes in the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.deep = nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.last = nn.Conv2d(16, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.first(x).relu()
        deep = F.interpolate(self.deep(self.down(x).relu()).relu(), size=first.shape[2:])
        return self.last(self.norm(torch.cat([first, deep], 1)).relu()) * 2.0


def rewritten(path: Path, what: Any = CONCATS, **options: Any) -> Rewritten:
    source = load(str(path), device="cpu")
    generator = torch.Generator().manual_seed(0)
    inputs = tuple(torch.randn(one.shape, generator=generator) for one in source.args if isinstance(one, torch.Tensor))
    return sg.rewrite(source.model, inputs, what, **{"execution": "separate", **options})


def run(path: Path, *inputs: np.ndarray) -> Any:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, dict(zip((one.name for one in session.get_inputs()), inputs, strict=True)))[0]


@pytest.mark.parametrize(
    ("name", "dynamo"),
    [("csp", False), ("densenet", False), ("dual_path", True), ("dla", False)],
)
def test_onnxruntime_computes_the_same(name: str, dynamo: bool, tmp_path: Path) -> None:
    fixture = fixtures.load(name)
    inputs = fixture.example_inputs
    assert isinstance(inputs, tuple)
    path = exported(redrawn(fixture.model_class()).float(), inputs, tmp_path / "model.onnx", dynamo=dynamo)
    result = rewritten(path)
    sg.emit(result, tmp_path / "out")
    again = tmp_path / "out" / "model.onnx"
    onnx.checker.check_model(onnx.load(again))
    before, after = (run(one, inputs[0].numpy()) for one in (path, again))
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-5 * np.abs(before).max())
    assert sum(node.op_type == "Concat" for node in onnx.load(again).graph.node) < sum(
        node.op_type == "Concat" for node in onnx.load(path).graph.node
    )


@pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "dynamo"])
def test_sizes_that_are_open_stay_open(dynamo: bool, tmp_path: Path) -> None:
    model = redrawn(Upsampling()).float()
    example = (torch.zeros(2, 3, 16, 16),)
    options: dict[str, Any] = {"input_names": ["x"], "dynamic_axes": {"x": {0: "batch", 2: "height", 3: "width"}}}
    if dynamo:
        batch, height, width = (torch.export.Dim(name) for name in ("batch", "height", "width"))
        options = {"dynamic_shapes": ({0: batch, 2: height, 3: width},)}
    path = exported(model, example, tmp_path / "model.onnx", dynamo=dynamo, **options)
    source = load(str(path), device="cpu", inputs=["1x3x16x16"])
    result = sg.rewrite(source.model, (torch.randn(1, 3, 16, 16),), CONCATS, execution="separate")
    sg.emit(result, tmp_path / "out")
    for shape in ((1, 3, 16, 16), (3, 3, 12, 20)):
        x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        before, after = run(path, x), run(tmp_path / "out" / "model.onnx", x)
        np.testing.assert_allclose(after, before, rtol=0, atol=1e-5 * np.abs(before).max())


def test_what_is_not_touched_stays_as_it_was(tmp_path: Path) -> None:
    path = exported(redrawn(Upsampling()).float(), (torch.zeros(1, 3, 16, 16),), tmp_path / "model.onnx", dynamo=False,
                    opset_version=15)  # fmt: skip
    file = onnx.load(path)
    file.producer_name, file.doc_string = "somebody", "A model."
    file.metadata_props.add(key="licence", value="free")
    onnx.save(file, path)
    sg.emit(rewritten(path), tmp_path / "out")
    again = onnx.load(tmp_path / "out" / "model.onnx")
    assert (again.producer_name, again.doc_string) == ("somebody", "A model.")
    assert [(one.domain, one.version) for one in again.opset_import] == [("", 15)]
    assert again.metadata_props == file.metadata_props
    assert again.graph.input == file.graph.input
    assert again.graph.output == file.graph.output
    now = {node.name: node for node in again.graph.node}
    gone = {node.name: node.op_type for node in file.graph.node if node.name not in now}
    assert sorted(gone.values()) == ["BatchNormalization", "Concat", "Conv", "Relu"]
    for node in file.graph.node:
        if node.name in gone:
            continue
        if node.op_type == "Mul":  # which reads what the last convolution was
            now[node.name].input[0] = node.input[0]
        assert now[node.name] == node
    weights = {one.name: one for one in again.graph.initializer}
    kept = [one for one in file.graph.initializer if one.name in weights]
    assert kept
    assert all(weights[one.name] == one for one in kept)


def test_what_hands_on_its_operand_is_no_obstacle(tmp_path: Path) -> None:
    path = exported(redrawn(Upsampling()).float(), (torch.zeros(1, 3, 16, 16),), tmp_path / "model.onnx", dynamo=False)
    file = onnx.load(path)
    nodes = list(file.graph.node)
    concat = next(
        node for node in nodes if node.op_type == "Concat" and len(node.input) == 2 and node.attribute[0].i == 1
    )
    for node in nodes:
        if concat.output[0] in node.input:
            node.input[list(node.input).index(concat.output[0])] = "handed_on"
    nodes.append(onnx.helper.make_node("Identity", [concat.output[0]], ["handed_on"], "hands_on"))
    last = file.graph.output[0]
    nodes[-2].output[0] = "made"
    nodes.append(onnx.helper.make_node("Identity", ["made"], [last.name], "at_the_end"))
    nodes.insert(nodes.index(concat) + 1, nodes.pop(-2))
    del file.graph.node[:]
    file.graph.node.extend(nodes)
    onnx.checker.check_model(file)
    onnx.save(file, path)
    sg.emit(rewritten(path), tmp_path / "out")
    again = onnx.load(tmp_path / "out" / "model.onnx")
    assert not [node.name for node in again.graph.node if node.op_type == "Concat" and node.attribute[0].i == 1]
    assert next(node for node in again.graph.node if node.name == "at_the_end") == nodes[-1]
    x = np.random.default_rng(0).normal(size=(1, 3, 16, 16)).astype(np.float32)
    before, after = (run(one, x) for one in (path, tmp_path / "out" / "model.onnx"))
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-5 * np.abs(before).max())


def test_sums_become_concats(tmp_path: Path) -> None:
    fixture = fixtures.load("unet_sum")
    inputs = fixture.example_inputs
    assert isinstance(inputs, tuple)
    path = exported(redrawn(fixture.model_class()).float(), inputs, tmp_path / "model.onnx", dynamo=True)
    result = rewritten(path, sg.SumToConcat(allow_identity=True))
    sg.emit(result, tmp_path / "out")
    before, after = (run(one, inputs[0].numpy()) for one in (path, tmp_path / "out" / "model.onnx"))
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-5 * np.abs(before).max())
    assert any(node.op_type == "Concat" for node in onnx.load(tmp_path / "out" / "model.onnx").graph.node)


class Picking(nn.Module):
    """Channels picked by a table, and by an order that the data tells."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1)
        self.layers = nn.ModuleList([nn.Conv2d(8, 4, 1, groups=2), nn.Conv2d(4, 4, 1)])
        self.table: torch.Tensor
        self.register_buffer("table", torch.tensor([5, 0, 3, 3, 4, 1, 0, 2]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        both = torch.cat([x, self.second(x)], 1).sigmoid()
        order = x.mean((0, 2, 3)).topk(4).indices + 2
        return self.layers[0](both.index_select(1, self.table)) + self.layers[1](both.index_select(1, order))  # type: ignore[no-any-return]


@pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "dynamo"])
def test_selections_are_taken_apart(dynamo: bool, tmp_path: Path) -> None:
    example = (torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)),)
    path = exported(redrawn(Picking()).float(), example, tmp_path / "model.onnx", dynamo=dynamo)
    result = rewritten(path)
    sg.emit(result, tmp_path / "out")
    again = tmp_path / "out" / "model.onnx"
    operators = [node.op_type for node in onnx.load(again).graph.node]
    assert [operators.count(name) for name in ("Concat", "Gather", "Mod")] == [0, 4, 2]
    np.testing.assert_allclose(run(again, example[0].numpy()), run(path, example[0].numpy()), rtol=0, atol=1e-6)


def test_fewer_channels(tmp_path: Path) -> None:
    path = exported(redrawn(Upsampling()).float(), (torch.zeros(1, 3, 16, 16),), tmp_path / "model.onnx", dynamo=True)
    data = [(torch.randn(4, 3, 16, 16),)]
    result = rewritten(path, sg.ConcatToSum(rank=4), calibrate=data)
    report = sg.emit(result, tmp_path / "out")
    x = torch.randn(1, 3, 16, 16)
    np.testing.assert_allclose(
        run(tmp_path / "out" / "model.onnx", x.numpy()), result.model(x).detach().numpy(), rtol=0, atol=1e-4
    )
    assert report["after"]["flops"] < report["before"]["flops"]
    assert report["factors"]["measured_error"] > 0


def test_data_beside_the_file_stays_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = exported(redrawn(Upsampling()).float(), (torch.zeros(1, 3, 16, 16),), tmp_path / "model.onnx", dynamo=False)
    whole = rewritten(path)
    file = onnx.load(path)
    onnx.save(file, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    sg.emit(rewritten(path), tmp_path / "out")
    assert sorted(one.name for one in (tmp_path / "out").iterdir())[:2] == ["model.onnx", "model.onnx.data"]
    assert load(str(tmp_path / "out" / "model.onnx"), device="cpu").model is not None
    monkeypatch.setattr(onnx_again, "_LARGEST", 1000)
    sg.emit(whole, tmp_path / "large")
    assert (tmp_path / "large" / "model.onnx.data").stat().st_size > 1000
    x = np.random.default_rng(0).normal(size=(1, 3, 16, 16)).astype(np.float32)
    outputs = [run(tmp_path / name / "model.onnx", x) for name in ("", "out", "large")]
    for one in outputs[1:]:
        np.testing.assert_allclose(one, outputs[0], rtol=0, atol=1e-5 * np.abs(outputs[0]).max())


def test_another_result_is_not_written(tmp_path: Path) -> None:
    path = exported(redrawn(Upsampling()).float(), (torch.zeros(1, 3, 16, 16),), tmp_path / "model.onnx", dynamo=False)
    result = rewritten(path)
    with torch.no_grad():
        next(result.model.parameters()).add_(0.1)
    with pytest.raises(VerificationError, match="onnxruntime's output is off"):
        sg.emit(result, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_has_no_meaning_is_refused(tmp_path: Path) -> None:
    path = exported(redrawn(Upsampling()).float(), (torch.zeros(1, 3, 16, 16),), tmp_path / "model.onnx", dynamo=False)
    with pytest.raises(UsageError, match="for inference already"):
        rewritten(path, inference=True)
    with pytest.raises(UsageError, match="written as ONNX alone"):
        sg.emit(rewritten(path), tmp_path / "out", pt2=True)


def joining(
    path: Path, consumer: list[Any], constants: dict[str, np.ndarray], outputs: tuple[str, ...] = ("y",)
) -> Path:
    """A file of a concat skip of eight channels, c, and what reads it."""
    helper, numbers = onnx.helper, np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["h0"], "first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["h0"], ["h"], "relu"),
        helper.make_node("Concat", ["x", "h"], ["c"], "concat", axis=1),
        *consumer,
    ]
    arrays = {"w1": numbers.normal(size=(4, 4, 3, 3)).astype(np.float32), **constants}
    graph = helper.make_graph(
        nodes, "joining", [helper.make_tensor_value_info("x", 1, [1, 4, 6, 6])],
        [helper.make_tensor_value_info(name, 1, None) for name in outputs],
        [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def emitted_again(path: Path, folder: Path) -> onnx.ModelProto:
    sg.emit(rewritten(path), folder)
    return onnx.load(folder / "model.onnx")


def test_a_product_with_factors_is_written_with_scaled_weights(tmp_path: Path) -> None:
    numbers, node = np.random.default_rng(0), onnx.helper.make_node
    consumer = [
        node("GlobalAveragePool", ["c"], ["p"], "pool"),
        node("Flatten", ["p"], ["f"], "flat"),
        node("Gemm", ["f", "w", "b"], ["y"], "product", alpha=0.5, beta=2.0),
    ]
    weights = {"w": numbers.normal(size=(8, 5)).astype(np.float32), "b": numbers.normal(size=5).astype(np.float32)}
    again = emitted_again(joining(tmp_path / "model.onnx", consumer, weights), tmp_path / "out")
    assert "Concat" not in [one.op_type for one in again.graph.node]


def test_a_branch_that_goes_takes_what_it_read_with_it(tmp_path: Path) -> None:
    helper = onnx.helper

    def branch(name: str) -> Any:
        made = helper.make_tensor_value_info(f"{name}_made", 1, None)
        return helper.make_graph([helper.make_node("Conv", ["c", "w"], [f"{name}_made"], name)], name, [], [made])

    consumer = [helper.make_node("If", ["yes"], ["y"], "if", then_branch=branch("then"), else_branch=branch("else"))]
    constants = {"yes": np.array(True), "w": np.ones((3, 8, 1, 1), np.float32)}
    again = emitted_again(joining(tmp_path / "model.onnx", consumer, constants), tmp_path / "out")
    assert {one.op_type for one in again.graph.node} == {"Conv", "Relu", "Add"}


def test_an_output_that_is_handed_out_twice(tmp_path: Path) -> None:
    consumer = [onnx.helper.make_node("Conv", ["c", "w"], ["y"], "last")]
    constants = {"w": np.ones((3, 8, 1, 1), np.float32)}
    again = emitted_again(joining(tmp_path / "model.onnx", consumer, constants, ("y", "y")), tmp_path / "out")
    assert [one.name for one in again.graph.output] == ["y", "y"]
