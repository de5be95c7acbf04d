"""Every operator that is read, held against onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from skipgraph.capture.onnx import load_file, read_model
from skipgraph.capture.onnx.at import converted
from skipgraph.capture.onnx.operators import load_families
from skipgraph.ops import registered

RNG = np.random.default_rng(0)


def f(*shape: int) -> np.ndarray:
    """Numbers between 0.1 and 1, so that every function is defined."""
    return RNG.uniform(0.1, 1.0, shape).astype(np.float32)


def signed(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def ints(*numbers: Any) -> np.ndarray:
    return np.array(numbers, dtype=np.int64)


@dataclass
class Case:
    """One operator on some operands, of which the first ``given``, or those at its places, are the graph's inputs."""

    name: str
    operands: Sequence[np.ndarray | None]
    attributes: dict[str, Any] = field(default_factory=dict)
    outputs: int = 1
    given: int | tuple[int, ...] = 1
    opset: int = 20
    domain: str = ""

    def __str__(self) -> str:
        return f"{self.name}-{self.opset}-{','.join(self.attributes)}"


UNARY = (
    "Abs Acos Asin Asinh Atan Atanh Ceil Cos Cosh Erf Exp Floor HardSwish Log Mish Neg Reciprocal Relu Round Sigmoid "
    "Sign Sin Sinh Softplus Softsign Sqrt Tan Tanh Identity LeakyRelu Elu Celu Selu ThresholdedRelu HardSigmoid Gelu "
    "Flatten GlobalAveragePool GlobalMaxPool"
).split()
BINARY = "Add Sub Mul Div Pow Max Min Sum Mean".split()
COMPARED = "Equal Greater GreaterOrEqual Less LessOrEqual".split()
LOGICAL = "And Or Xor".split()
BITWISE = "BitwiseAnd BitwiseOr BitwiseXor".split()
REDUCED = [f"Reduce{how}" for how in "Mean Sum Max Min L1 L2 SumSquare LogSum LogSumExp".split()]
TRUE, FALSE = np.array([[True, False]] * 2), np.array([[True], [False]])

CASES = [
    *(Case(name, [f(2, 3, 4, 5)]) for name in UNARY),
    Case("Acosh", [f(2, 3) + 1]),
    Case("IsNaN", [np.array([0.0, np.nan], dtype=np.float32)]),
    Case("Gelu", [signed(2, 3)], {"approximate": "tanh"}),
    Case("Gelu", [signed(2, 3)], domain="com.microsoft", opset=1),
    Case("HardSigmoid", [signed(2, 3)], {"alpha": 1 / 6, "beta": 0.5}),
    Case("Flatten", [f(2, 3, 4)], {"axis": 2}),
    Case("Swish", [signed(2, 3)], opset=24),
    *(Case(name, [f(2, 3, 4), f(3, 1)], given=2) for name in BINARY),
    *(Case(name, [f(2, 3), np.float32(0.5)]) for name in ("Add", "Sub", "Mul", "Div", "Pow")),
    Case("Sub", [f(1), f(2, 3)]),
    Case("Div", [ints(-7, 7), ints(2, 2)]),
    Case("Mod", [ints(-7, 7), ints(3, 3)]),
    Case("Mod", [signed(4), f(4)], {"fmod": 1}),
    *(Case(name, [f(2, 3), f(2, 3)], given=2) for name in COMPARED),
    *(Case(name, [TRUE, FALSE], given=2) for name in LOGICAL),
    *(Case(name, [ints(5, 6), ints(3, 12)], given=2) for name in BITWISE),
    *(Case(name, [np.float32(0.5), f(2, 3)], given=(1,)) for name in COMPARED),
    *(Case(name, [np.array(True), TRUE], given=(1,)) for name in LOGICAL),
    Case("Pow", [ints(1, 2, 3), np.float32(2.5)]),
    Case("Pow", [f(2, 3), np.array([2.0, 3.0, 4.0])], given=2),
    Case("BitwiseNot", [ints(5, 6)]),
    Case("BitShift", [np.array([1, 5], np.uint8), np.array([2, 1], np.uint8)], {"direction": "LEFT"}),
    Case("Not", [TRUE]),
    Case("Where", [TRUE, f(2, 2), f(2, 1)], given=3),
    Case("Clip", [signed(2, 3), np.float32(-0.5), np.float32(0.5)]),
    Case("Clip", [signed(2, 3), None, np.float32(0.5)]),
    Case("Clip", [signed(2, 3)], {"min": 0.0, "max": 6.0}, opset=10),
    Case("Cast", [signed(2, 3)], {"to": TensorProto.INT64}),
    Case("CastLike", [signed(2, 3), ints(1)]),
    Case("Dropout", [f(2, 3)]),
    Case("PRelu", [signed(2, 3, 4, 4), f(3, 1, 1)]),
    Case("PRelu", [signed(2, 3, 4, 4), f(1)]),
    Case("PRelu", [signed(2, 3, 4), f(3, 4)]),
    # Layers.
    Case("Conv", [f(2, 4, 8, 7), f(6, 2, 3, 3), f(6)], {"group": 2, "pads": [1, 1, 1, 1], "strides": [2, 1]}),
    Case("Conv", [f(2, 4, 8), f(6, 4, 3)], {"auto_pad": "SAME_UPPER", "strides": [2]}),
    Case("Conv", [f(2, 4, 8), f(6, 4, 2)], {"auto_pad": "SAME_LOWER"}),
    Case("Conv", [f(1, 2, 5, 5, 5), f(3, 2, 3, 3, 3)], {"pads": [0, 1, 2, 1, 1, 0], "dilations": [1, 2, 1]}),
    Case("Conv", [f(2, 4, 8, 7), f(6, 4, 3, 3)], given=2),
    Case("ConvTranspose", [f(2, 4, 5, 5), f(4, 3, 2, 2), f(3)], {"strides": [2, 2]}),
    Case("ConvTranspose", [f(2, 4, 5), f(4, 3, 3)], {"strides": [2], "pads": [1, 0], "group": 1}),
    Case("ConvTranspose", [f(2, 4, 5), f(4, 3, 3)], {"strides": [2], "pads": [1, 1], "output_padding": [1]}),
    Case("Gemm", [f(2, 4), f(3, 4), f(3)], {"transB": 1}),
    *(Case("ConvTranspose", [f(2, 4, 5), f(4, 3, 3)], {"strides": [2], "pads": pads, "output_padding": [1]})
      for pads in ([2, 0], [0, 2])),
    Case("Gemm", [f(2, 4), f(4, 3)], {}),
    Case("Gemm", [f(3, 4), f(4, 3), f(3, 1)], {}),
    Case("Gemm", [f(2, 4), f(4, 3), f(1, 3)], {"alpha": 0.5, "beta": 2.0}),
    Case("Gemm", [f(4, 2), f(4, 3), f(2, 3)], {"transA": 1, "alpha": 0.5, "beta": 2.0}, given=3),
    Case("MatMul", [f(2, 5, 4), f(4, 3)]),
    Case("MatMul", [f(2, 5, 4), f(2, 4, 3)], given=2),
    Case("Einsum", [f(2, 3, 4), f(2, 4, 5)], {"equation": "bij,bjk->bik"}, given=2),
    Case("BatchNormalization", [f(2, 3, 4, 4), f(3), f(3), f(3), f(3)], {"epsilon": 1e-3}),
    Case("BatchNormalization", [f(2, 3), f(3), f(3), f(3), f(3)]),
    Case("InstanceNormalization", [f(2, 3, 4, 4), f(3), f(3)]),
    Case("GroupNormalization", [f(2, 4, 3, 3), f(4), f(4)], {"num_groups": 2}, opset=21),
    Case("LayerNormalization", [f(2, 3, 4), f(4), f(4)]),
    Case("LayerNormalization", [f(2, 3, 4), f(3, 4)], {"axis": 1}),
    Case("LayerNormalization", [f(2, 3, 4), f(4), f(1, 4)], {"axis": 1}),
    Case("RMSNormalization", [f(2, 3, 4), f(4)], opset=23),
    Case("RMSNormalization", [f(2, 3, 4), f(4)], {"axis": 1}, opset=23),
    Case("LpNormalization", [f(2, 3, 4)], {"axis": 1, "p": 1}),
    Case("LRN", [f(2, 8, 4, 4)], {"size": 3, "alpha": 0.1}),
    Case("Attention", [signed(2, 2, 5, 4), signed(2, 2, 5, 4), signed(2, 2, 5, 4)], given=3, opset=23),
    Case("LSTM", [signed(5, 2, 3), signed(2, 16, 3), signed(2, 16, 4), signed(2, 32)],
         {"hidden_size": 4, "direction": "bidirectional"}, outputs=3),
    Case("LSTM", [signed(5, 2, 3), signed(1, 16, 3), signed(1, 16, 4), None, None, signed(1, 2, 4), signed(1, 2, 4)],
         {"hidden_size": 4}, outputs=3),
    *(Case("LSTM", [signed(5, 2, 3), signed(1, 16, 3), signed(1, 16, 4), None, None, *states], {"hidden_size": 4})
      for states in ([signed(1, 2, 4)], [None, signed(1, 2, 4)])),
    Case("GRU", [signed(5, 2, 3), signed(1, 12, 3), signed(1, 12, 4), signed(1, 24)],
         {"hidden_size": 4, "linear_before_reset": 1}, outputs=2),
    Case("RNN", [signed(5, 2, 3), signed(1, 4, 3), signed(1, 4, 4), signed(1, 8)], {"hidden_size": 4}, outputs=2),
    # Shapes.
    Case("Constant", [], {"value_floats": [1.0, 2.0]}),
    Case("Constant", [], {"value_int": 3}),
    Case("ConstantOfShape", [ints(2, 3)], {"value": numpy_helper.from_array(np.array([2.0], np.float32))}, given=0),
    Case("Shape", [f(2, 3, 4)], {"start": 1}),
    Case("Size", [f(2, 3, 4)]),
    Case("Range", [ints(1).reshape(()), ints(9).reshape(()), ints(2).reshape(())], given=0),
    Case("Reshape", [f(2, 3, 4), ints(0, -1)]),
    Case("Reshape", [f(2, 3, 4), ints(6, 4)]),
    Case("Squeeze", [f(2, 1, 4, 1), ints(1, -1)]),
    Case("Squeeze", [f(2, 1, 4), ints()]),
    Case("Squeeze", [f(2, 1, 4)], {"axes": [1]}, opset=11),
    Case("Unsqueeze", [f(2, 4), ints(0, -1)]),
    Case("Transpose", [f(2, 3, 4)], {"perm": [0, 2, 1]}),
    Case("Transpose", [f(2, 3, 4)]),
    Case("Expand", [f(3, 1), ints(2, 1, 4)]),
    Case("Tile", [f(2, 3), ints(1, 2)]),
    Case("Concat", [f(2, 3), f(2, 4), f(2, 1)], {"axis": -1}, given=2),
    Case("Split", [f(2, 7), ints(3, 4)], {"axis": 1}, outputs=2),
    Case("Split", [f(2, 7)], {"axis": 1, "num_outputs": 3}, outputs=3),
    Case("Split", [f(2, 6)], {"axis": 1}, outputs=2, opset=13),
    Case("Slice", [f(4, 5, 6), ints(1, -4), ints(3, 100), ints(0, 2), ints(1, 2)]),
    Case("Slice", [f(4, 5), ints(-1), ints(-(2**62)), ints(1), ints(-1)]),
    Case("Slice", [f(4, 5), ints(-20), ints(-30), ints(0), ints(-1)]),
    Case("Slice", [f(4, 5), ints(1), ints(3), ints(0), ints(-1)]),
    Case("Slice", [f(4, 5)], {"starts": [1], "ends": [3], "axes": [1]}, opset=9),
    Case("Gather", [f(4, 5), ints(2).reshape(())], {"axis": 1}),
    Case("Gather", [f(4, 5), ints(2, -1)], {"axis": 0}),
    Case("Gather", [f(4, 5), np.array([[0, 1], [2, 3]])], {"axis": 1}),
    Case("GatherElements", [f(3, 2), np.array([[0, 2], [1, 0]])], {"axis": 0}),
    Case("GatherElements", [f(3, 2), np.array([[0, -1], [-2, 0]])], {"axis": 0}),
    Case("GatherND", [f(3, 2, 4), ints(1, 1, -1)]),
    Case("GatherND", [f(3, 2, 4), np.array([[0, 1], [2, 0]])]),
    Case("ScatterElements", [f(3, 2), np.array([[0, 2]]), f(1, 2)], {"axis": 0}),
    Case("ScatterElements", [f(3, 2), np.array([[0, 0]]), f(1, 2)], {"axis": 0, "reduction": "add"}),
    Case("ScatterElements", [f(3, 2), np.array([[0, -1]]), f(1, 2)], {"axis": 0}),
    Case("ScatterND", [f(4, 2), np.array([[1], [3]]), f(2, 2)]),
    Case("Pad", [f(2, 3, 4), ints(0, 1, 0, 0, 0, 2), np.float32(0.5)]),
    Case("Pad", [f(2, 3, 4), ints(1, 2), None, ints(2)], {"mode": "reflect"}, opset=18),
    Case("Pad", [f(2, 3, 4)], {"pads": [0, 0, 1, 0, 0, 2], "mode": "edge"}, opset=10),
    Case("Trilu", [f(4, 4), ints(1).reshape(())], {"upper": 0}),
    *(Case("EyeLike", [f(3, 4)], {"k": k, "dtype": TensorProto.INT64}) for k in (-1, 1, 2)),
    Case("OneHot", [ints(0, -1, 5), ints(3).reshape(()), np.array([0.0, 2.0], np.float32)]),
    Case("Range", [ints(5).reshape(()), ints(0).reshape(()), ints(2).reshape(())], given=0),
    Case("OneHot", [ints(0, 2, 1), ints(3).reshape(()), np.array([0.0, 2.0], np.float32)]),
    Case("TopK", [f(2, 6), ints(3)], outputs=2),
    Case("CumSum", [f(2, 3), ints(1).reshape(())]),
    Case("CumSum", [np.array([1, 2], np.int32), ints(0).reshape(())]),
    Case("NonZero", [np.array([[1, 0], [0, 1]], np.float32)], given=0),
    # Pools.
    Case("MaxPool", [f(2, 3, 8, 7)], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    Case("MaxPool", [f(2, 3, 8)], {"kernel_shape": [3], "pads": [0, 1], "ceil_mode": 0}),
    Case("MaxPool", [f(2, 3, 9)], {"kernel_shape": [2], "strides": [2], "ceil_mode": 1}),
    Case("MaxPool", [f(2, 3, 8)], {"kernel_shape": [2], "strides": [2], "pads": [0, 1], "ceil_mode": 1}),
    Case("AveragePool", [f(2, 3, 8, 7)], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    Case("AveragePool", [f(2, 3, 8)], {"kernel_shape": [3], "pads": [0, 1], "count_include_pad": 1}),
    *(Case(name, [f(2, 3, 4), ints(1)], {"keepdims": 0}, opset=18) for name in REDUCED),
    *(Case(name, [f(2, 3, 4)], {"axes": [2]}, opset=11) for name in REDUCED),
    Case("ReduceMean", [f(2, 3, 4)], {}, opset=18),
    Case("ReduceSum", [f(2, 3, 4)], {"noop_with_empty_axes": 1}, opset=18),
    *(Case(f"Reduce{how}", [f(2, 3)], {"noop_with_empty_axes": 1}, opset=18)
      for how in ("LogSum", "SumSquare", "Prod")),
    *(Case(f"Reduce{how}", [np.array([1, 2, 5], np.int32)], opset=18) for how in "Sum Prod L1".split()),
    Case("ReduceProd", [f(2, 3, 4), ints(0, 2)], opset=18),
    Case("ArgMax", [f(2, 5)], {"axis": 1, "keepdims": 0}),
    Case("ArgMin", [f(2, 5)], {"axis": 1}),
    Case("Softmax", [f(2, 3, 4)]),
    Case("Softmax", [f(2, 3, 4)], {"axis": 1}, opset=11),
    Case("LogSoftmax", [f(2, 3)], {"axis": 1}, opset=11),
    Case("Resize", [f(1, 2, 4, 4), None, np.array([1, 1, 2, 2], np.float32)],
         {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}),
    Case("Resize", [f(1, 2, 4, 4), None, None, ints(1, 2, 9, 7)], {"mode": "linear"}),
    Case("Resize", [f(1, 2, 4, 4), None, None, ints(1, 2, 9, 7)],
         {"mode": "linear", "coordinate_transformation_mode": "align_corners"}),
    Case("Resize", [f(1, 2, 6, 6), None, np.array([1, 1, 2, 2], np.float32)], {"mode": "cubic"}),
    Case("Resize", [f(1, 2, 4, 4), np.array([1, 1, 2, 2], np.float32)], {"mode": "nearest"}, opset=10),
    Case("Upsample", [f(1, 2, 4, 4), np.array([1, 1, 2, 2], np.float32)], opset=9),
    Case("DepthToSpace", [f(1, 8, 2, 3)], {"blocksize": 2}),
    Case("DepthToSpace", [f(1, 8, 2, 3)], {"blocksize": 2, "mode": "CRD"}),
    Case("SpaceToDepth", [f(1, 2, 4, 6)], {"blocksize": 2}),
    Case("GridSample", [f(1, 2, 4, 4), signed(1, 3, 3, 2)], {"align_corners": 1}, given=2),
]  # fmt: skip


def built(case: Case, path: Path) -> dict[str, np.ndarray]:
    """The file of a case, and its inputs."""
    names = ["" if one is None else f"x{place}" for place, one in enumerate(case.operands)]
    arrays = dict(zip(names, case.operands, strict=True))
    outputs = [f"y{place}" for place in range(case.outputs)]
    node = helper.make_node(case.name, names, outputs, "the_node", domain=case.domain, **case.attributes)
    places = range(case.given) if isinstance(case.given, int) else case.given
    given = [names[place] for place in places if place < len(names) and names[place]]

    def described(name: str) -> Any:
        array = arrays[name]
        assert array is not None
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)

    graph = helper.make_graph(
        [node],
        "case",
        [described(name) for name in given],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()
         if name and name not in given and array is not None],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", case.opset if not case.domain else 20)]
    opsets += [helper.make_opsetid(case.domain, case.opset)] if case.domain else []
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return {name: np.asarray(arrays[name]) for name in given}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_operator_computes_what_onnxruntime_does(case: Case, tmp_path: Path) -> None:
    path = tmp_path / "case.onnx"
    inputs = built(case, path)
    wanted = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, inputs)
    given = {name: torch.from_numpy(array) for name, array in inputs.items()}
    model = read_model(load_file(path), given, data=True, path=path)
    assert model.notes == []
    with torch.no_grad():
        made = model(*given.values())
    for mine, theirs in zip(made if isinstance(made, tuple) else (made,), wanted, strict=True):
        np.testing.assert_allclose(mine.detach().numpy(), theirs, rtol=2e-5, atol=2e-6)
        assert mine.detach().numpy().dtype == theirs.dtype


SIGMOID, TANH = "Sigmoid", "Tanh"
UNREAD = [
    (Case("Dropout", [f(2, 3), np.float32(0.5), np.array(True)], opset=13), "it is in training mode"),
    (Case("Dropout", [f(2, 3)], outputs=2, opset=13), "its mask is read"),
    (Case("MaxPool", [f(1, 2, 8)], {"kernel_shape": [2]}, outputs=2), "its indices are read"),
    (Case("LayerNormalization", [f(2, 3), f(3), f(3)], outputs=3), "its statistics are read"),
    (Case("ArgMax", [f(2, 5)], {"select_last_index": 1}), "of equal numbers it takes the last"),
    (Case("QuantizeLinear", [f(2, 3), np.float32(0.05), np.uint8(128)]), "its integers are read"),
    (Case("InstanceNormalization", [f(2, 3, 1), f(3), f(3)]), "its operand has one position"),
    (Case("AveragePool", [f(1, 2, 8)],
          {"kernel_shape": [2], "strides": [2], "pads": [0, 1], "ceil_mode": 1, "count_include_pad": 1}),
     "it pads unlike on two sides, and counts windows up"),
    (Case("LSTM", [f(5, 2, 3), f(2, 16, 3), f(2, 16, 4)],
          {"hidden_size": 4, "direction": "bidirectional",
           "activations": [SIGMOID, TANH, TANH, SIGMOID, TANH, SIGMOID]}), "its activations are others"),
]  # fmt: skip


@pytest.mark.parametrize(("case", "reason"), UNREAD, ids=[str(case) for case, _ in UNREAD])
def test_what_pytorch_computes_otherwise_is_opaque(case: Case, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "case.onnx"
    given = {name: torch.from_numpy(array) for name, array in built(case, path).items()}
    assert reason in read_model(load_file(path), given, data=True, path=path).notes[0]


@pytest.mark.parametrize("case", [one for one in CASES if one.given], ids=str)
def test_shapes_are_known_without_data(case: Case, tmp_path: Path) -> None:
    path = tmp_path / "case.onnx"
    inputs = built(case, path)
    given = {name: torch.from_numpy(array).to("meta") for name, array in inputs.items()}
    model = read_model(load_file(path), given, data=False, path=path)
    assert model.notes == []


def test_every_operator_that_is_read_is_tested() -> None:
    load_families()
    tested = {f"{case.domain}::{case.name}" if case.domain else case.name for case in CASES}
    assert converted() - tested == {"QuantizeLinear", "DequantizeLinear"}, "tested in test_reader.py"


def test_what_the_facts_call_an_operator_is_read() -> None:
    load_families()
    names = {name for facts in registered().values() for name in facts.onnx}
    assert names - converted() == {"DFT"}
