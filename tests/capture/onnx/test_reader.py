"""ONNX files as graphs: the same counts and prices as those of the models that they were exported from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import skipgraph as sg
from skipgraph.capture.onnx import OnnxModel
from skipgraph.errors import CaptureError, SourceError
from skipgraph.graph.types import Cost
from skipgraph.sources import load
from tests.helpers import fixtures
from tests.helpers.onnx_files import exported

# The exporter of graphs takes seconds for each; that of TorchScript does for most.
FIXTURES = {
    **dict.fromkeys("aspp densenet dla fpn hrnet inception resnet shufflenet unet_plus_plus vgg".split(), False),
    **dict.fromkeys("csp squeeze_excitation unet_sum".split(), True),
}
COUNTED = ("skips", "add", "concat", "gated", "short", "long", "identity", "projected", "edges")


@pytest.mark.parametrize(("name", "dynamo"), FIXTURES.items())
def test_a_fixture_as_onnx_has_the_skips_that_it_has_in_pytorch(name: str, dynamo: bool, tmp_path: Path) -> None:
    fixture = fixtures.load(name)
    model = fixture.model_class().eval()
    given = fixture.example_inputs
    inputs = tuple(given.values()) if isinstance(given, dict) else given
    path = exported(model, inputs, tmp_path / "model.onnx", dynamo=dynamo)
    source = load(str(path), device="cpu")
    graph = sg.trace(source.model, source.args)
    assert {key: getattr(graph.counts, key) for key in COUNTED} == fixture.counts
    original = sg.trace(model, inputs).cost
    assert unfolded(original) == unfolded(graph.cost)
    with torch.no_grad():
        wanted, made = model(*inputs), source.model(*inputs)
    torch.testing.assert_close(made, wanted, rtol=1e-4, atol=1e-5)


def unfolded(cost: Cost) -> int:
    """Multiply-adds without those of norms, which exporters fold into convolutions, and of global pools: means too."""
    left_out = ("batch_norm", "adaptive_avg_pool")
    return sum(flops for name, flops in cost.flops_by_operator.items() if not name.startswith(left_out))


def test_nodes_are_known_by_the_names_of_the_file(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    path = exported(model, (torch.zeros(1, 3, 8, 8),), tmp_path / "model.onnx", dynamo=False)
    source = load(str(path))
    graph = sg.trace(source.model, source.args)
    names = {node.name for node in onnx.load(path).graph.node}
    nodes = {node: data["call"] for node, data in graph.nodes(data=True) if data["op"] != "input"}
    assert set(nodes) == names
    assert sorted(nodes.values()) == ["Conv", "Relu"]


def test_inspecting_reads_no_weights(tmp_path: Path) -> None:
    path = exported(nn.Linear(512, 512), (torch.zeros(1, 512),), tmp_path / "model.onnx", dynamo=False)
    source = load(str(path))
    weights = [parameter for parameter in source.model.parameters() if parameter.numel() > 512]
    assert [one.device.type for one in weights] == ["meta"]
    assert sg.trace(source.model, source.args).cost.flops == 512 * 512


def made(tmp_path: Path, nodes: list[Any], constants: dict[str, np.ndarray] | None = None, **options: Any) -> Path:
    """A file of a few nodes from x, of shape 1×4, to y."""
    graph = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, options.pop("shape", [1, 4]))],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
        value_info=options.pop("value_info", []),
    )
    opsets = options.pop("opset_imports", [helper.make_opsetid("", 20)])
    path = tmp_path / "made.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9, **options), path)
    return path


def read(path: Path) -> OnnxModel:
    model = load(str(path), device="cpu").model
    assert isinstance(model, OnnxModel)
    return model


def test_sizes_that_are_computed_are_no_part_of_the_graph(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "one"], ["width"]),
        helper.make_node("Mul", ["width", "half"], ["twice"]),
        helper.make_node("Concat", ["minus", "twice"], ["sizes"], axis=0),
        helper.make_node("Reshape", ["x", "sizes"], ["y"]),
    ]
    constants = {"one": np.array([1]), "half": np.array([2]), "minus": np.array([-1])}
    model = read(made(tmp_path, nodes, constants, shape=[2, 4]))
    assert [node.op for node in model.graphs[False].nodes] == ["placeholder", "call_function", "output"]
    assert model(torch.zeros(2, 4)).shape == (1, 8)


def test_a_known_condition_takes_one_branch(tmp_path: Path) -> None:
    out = helper.make_empty_tensor_value_info("out")
    branches = {
        name: helper.make_graph([helper.make_node(op, ["x"], ["out"])], name, [], [out])
        for name, op in (("then_branch", "Relu"), ("else_branch", "Sigmoid"))
    }
    nodes = [helper.make_node("If", ["flag"], ["y"], **branches)]
    model = read(made(tmp_path, nodes, {"flag": np.array(False)}))
    x = torch.randn(1, 4)
    torch.testing.assert_close(model(x), x.sigmoid())


def test_functions_of_the_file_are_inlined(tmp_path: Path) -> None:
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("mine", 1)]
    function = helper.make_function(
        "mine", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], opsets[:1]
    )
    nodes = [helper.make_node("Twice", ["x"], ["y"], domain="mine")]
    model = read(made(tmp_path, nodes, opset_imports=opsets, functions=[function]))
    x = torch.randn(1, 4)
    torch.testing.assert_close(model(x), 2 * x)


def test_an_unknown_operator_is_an_opaque_leaf(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["h"], "first"),
        helper.make_node("Strange", ["h"], ["s"], "strange", domain="mine"),
        helper.make_node("Add", ["h", "s"], ["y"], "last"),
    ]
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("mine", 1)]
    shapes = [helper.make_tensor_value_info("s", TensorProto.FLOAT, [1, 4])]
    source = load(str(made(tmp_path, nodes, opset_imports=opsets, value_info=shapes)))
    (note,) = source.notes
    assert note.startswith("1 × Strange: skipgraph knows no such operator")
    inspection = sg.inspect(source.model, source.args)
    assert [path for path, _ in inspection.opaque] == ["strange"]
    assert inspection.graph.nodes["strange"]["op"] == "opaque"
    assert list(inspection.graph.operands("last")) == [(0, "first"), (1, "strange")]


def test_an_unknown_operator_of_unknown_shape_is_an_error_that_names_it(tmp_path: Path) -> None:
    nodes = [helper.make_node("Strange", ["x"], ["y"], "the_node", domain="mine")]
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("mine", 1)]
    with pytest.raises(CaptureError, match=r"the_node \(mine::Strange\).*no such operator.*shape its result y"):
        read(made(tmp_path, nodes, opset_imports=opsets))


def test_a_node_that_does_not_run_is_an_error_that_names_it(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], "product")]
    with pytest.raises(CaptureError, match=r"product \(MatMul\) does not run on tensors of shape 1x4"):
        read(made(tmp_path, nodes, {"w": np.zeros((5, 3), np.float32)}))


def test_weights_that_are_cut_short_are_said(tmp_path: Path) -> None:
    path = made(tmp_path, [helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": np.zeros((4, 4), np.float32)})
    file = onnx.load(path)
    file.graph.initializer[0].raw_data = file.graph.initializer[0].raw_data[:-4]
    path.write_bytes(file.SerializeToString())
    with pytest.raises(SourceError, match="the data of the tensor w cannot be read"):
        read(path)


def test_an_opaque_leaf_is_one_where_values_are_read_too(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Strange", ["x"], ["s"], "strange", domain="mine"),
        helper.make_node("Relu", ["s"], ["y"], "last"),
    ]
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("mine", 1)]
    shapes = [helper.make_tensor_value_info("s", TensorProto.FLOAT, [1, 4])]
    inner = load(str(made(tmp_path, nodes, opset_imports=opsets, value_info=shapes))).model

    class Reading(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner
            self.register_buffer("limit", torch.tensor(2.0))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            made = self.inner(x)
            return made * 2 if float(self.limit) > 1 else made

    inspection = sg.inspect(Reading(), (torch.zeros(1, 4),))
    assert inspection.method == "fake"
    assert [path for path, _ in inspection.opaque] == ["inner.strange"]
    assert "opaque" in {data["op"] for _, data in inspection.graph.nodes(data=True)}


def test_an_old_operator_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="operator set 6"):
        read(made(tmp_path, [helper.make_node("Relu", ["x"], ["y"])], opset_imports=[helper.make_opsetid("", 6)]))


def test_weights_of_eight_bits_are_numbers(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["h"]),
        helper.make_node("DequantizeLinear", ["w8", "ws", "wz"], ["w"], axis=1),
        helper.make_node("MatMul", ["h", "w"], ["y"]),
    ]
    constants = {
        "s": np.float32(0.05), "z": np.uint8(100), "w8": np.random.default_rng(0).integers(-99, 99, (4, 3), np.int8),
        "ws": np.array([0.1, 0.2, 0.3], np.float32), "wz": np.zeros(3, np.int8),
    }  # fmt: skip
    path = made(tmp_path, nodes, {name: np.asarray(array) for name, array in constants.items()})
    x = torch.linspace(-1, 1, 4).reshape(1, 4)
    wanted = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x.numpy()})
    model = read(path)
    np.testing.assert_allclose(model(x).detach().numpy(), wanted[0], rtol=1e-5)
    assert sg.trace(model, (x,)).cost.flops == 12


@pytest.mark.parametrize(
    "nodes",
    [
        [helper.make_node("DequantizeLinear", ["q", "s2", "z"], ["y"])],
        [helper.make_node("DequantizeLinear", ["q", "s"], ["y"])],
        [helper.make_node("Cast", ["q"], ["y"], to=TensorProto.FLOAT)],
        [helper.make_node("Transpose", ["q"], ["t"]), helper.make_node("DequantizeLinear", ["t", "s2", "z"], ["y"])],
    ],
    ids=["scale", "zero", "cast", "behind"],
)
def test_integers_that_are_read_as_other_numbers_are_opaque(nodes: list[Any], tmp_path: Path) -> None:
    first = helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"])
    constants = {"s": np.float32(0.1), "s2": np.float32(0.2), "z": np.uint8(3)}
    path = made(tmp_path, [first, *nodes], {name: np.asarray(array) for name, array in constants.items()})
    assert "its integers are read" in read(path).notes[0]


def test_layers_that_share_a_square_weight_read_it_each_in_its_way(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["a"], transB=1),
        helper.make_node("Gemm", ["a", "w"], ["b"], alpha=0.5),
        helper.make_node("Gemm", ["b", "w"], ["c"]),
        helper.make_node("MatMul", ["c", "w"], ["y"]),
    ]
    w = torch.arange(16.0).reshape(4, 4)
    model, x = read(made(tmp_path, nodes, {"w": w.numpy()})), torch.ones(1, 4)
    torch.testing.assert_close(model(x), x @ w.t() @ w @ w @ w / 2)


@pytest.mark.parametrize("name", ["if", "model.lambda.weight"])
def test_names_that_are_words_of_python(name: str, tmp_path: Path) -> None:
    node = helper.make_node("MatMul", ["x", name], ["y"], "class")
    torch.testing.assert_close(
        read(made(tmp_path, [node], {name: np.eye(4, dtype=np.float32)}))(torch.ones(1, 4)), torch.ones(1, 4)
    )


def branch(op_type: str, reads: str) -> Any:
    node = helper.make_node(op_type, [reads], [f"{op_type}_made"])
    return helper.make_graph([node], op_type, [], [helper.make_tensor_value_info(f"{op_type}_made", 1, [1, 4])])


def test_what_branches_read_is_read_by_their_node(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Abs", ["x"], ["h"], "outer"),
        helper.make_node("ReduceSum", ["x"], ["r"], keepdims=0),
        helper.make_node("Greater", ["r", "zero"], ["c"], "condition"),
        helper.make_node("If", ["c"], ["y"], "if", then_branch=branch("Relu", "h"), else_branch=branch("Neg", "h")),
    ]
    model = read(made(tmp_path, nodes, {"zero": np.array(0.0, np.float32)}))
    (node,) = (one for one in model.graphs[False].nodes if one.op == "call_module")
    assert [model.labels[one.name][0] for one in node.args] == ["condition", "outer"]


def test_results_that_are_left_out_need_no_shape(tmp_path: Path) -> None:
    node = helper.make_node("Strange", ["x"], ["", "y"], "strange", domain="mine")
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("mine", 1)]
    path = made(tmp_path, [node], opset_imports=opsets)
    file = onnx.load(path)
    file.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4]))
    onnx.save(file, path)
    assert read(path)(torch.zeros(1, 4)).shape == (1, 4)


def test_inference_of_shapes_that_fails_is_no_news_of_its_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    nodes = [helper.make_node("MeanVarianceNormalization", ["x"], ["y"], "norm")]
    with pytest.raises(CaptureError, match="does not say what shape its result y has"):
        read(made(tmp_path, nodes))
    assert not caplog.records


def test_minus_one_is_a_size_that_is_left_open(tmp_path: Path) -> None:
    path = made(tmp_path, [helper.make_node("Relu", ["x"], ["y"])], shape=[-1, 4])
    assert [tuple(one.shape) for one in load(str(path)).args] == [(1, 4)]
    assert [tuple(one.shape) for one in load(str(path), inputs=["3x4"]).args] == [(3, 4)]


# -- files -------------------------------------------------------------------------------------------------------------


def outside(tmp_path: Path, location: str) -> Path:
    """A file whose weight lies at ``location``."""
    tensor = numpy_helper.from_array(np.zeros((4, 4), np.float32), "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "64")):
        tensor.external_data.add(key=key, value=value)
    path = made(tmp_path, [helper.make_node("MatMul", ["x", "w"], ["y"])])
    file = onnx.load(path)
    file.graph.initializer.append(tensor)
    path.write_bytes(file.SerializeToString())
    return path


def test_external_data_outside_the_directory_is_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(64))
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "link").symlink_to(secret)
    for location in ("../secret", str(secret), "link", "a/../../secret"):
        with pytest.raises(SourceError, match="outside the model's directory"):
            read(outside(folder, location))


def test_external_data_that_is_missing_or_short_is_said(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="there is no file"):
        read(outside(tmp_path, "weights.bin"))
    (tmp_path / "weights.bin").write_bytes(bytes(60))
    with pytest.raises(SourceError, match="cut short"):
        read(outside(tmp_path, "weights.bin"))
    (tmp_path / "weights.bin").write_bytes(bytes(64))
    assert read(outside(tmp_path, "weights.bin"))(torch.ones(1, 4)).tolist() == [[0.0] * 4]


@pytest.mark.parametrize("content", [b"", b"not a model", bytes(100)])
def test_what_is_no_onnx_file_is_said(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(SourceError, match="not a whole ONNX file"):
        load(str(path))
