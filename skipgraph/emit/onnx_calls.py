"""The calls that rewrites put into a graph, as ONNX nodes."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import fx, nn
from torch.nn import functional as F

from skipgraph.emit.onnx_scribe import Scribe
from skipgraph.errors import EmitError
from skipgraph.passes.forms import places_within, selected

if TYPE_CHECKING:
    import onnx_ir as ir

    from skipgraph.capture.onnx import OnnxModel


class Writing(Protocol):
    """What a writer of calls asks of the graph that is being written."""

    scribe: Scribe
    results: dict[fx.Node, Any]  # what each call makes

    def value(self, node: Any) -> ir.Value:
        """What stands for the result of a call."""
        ...

    def module(self, node: fx.Node) -> Any:
        """The layer that a call calls."""
        ...

    def shape(self, node: Any) -> tuple[int, ...]:
        """The shape of a result."""
        ...

    def original_input(self, node: fx.Node, place: int) -> ir.Value | None:
        """An input of the node that a call was copied from; None if it has none."""
        ...

    def copied(self, node: fx.Node) -> ir.Value:
        """The operator of the node that a call was copied from, on other operands."""
        ...


CallWriter = Callable[[Writing, fx.Node], "ir.Value"]


def writer_of(model: OnnxModel, node: fx.Node) -> CallWriter | None:
    """What writes a call; None if nothing is known of it."""
    if node.op == "call_module":
        return _LAYERS.get(type(model.get_submodule(str(node.target))))
    return _CALLS.get(node.target)


# -- layers ----------------------------------------------------------------------------------------------------------


def _operands(at: Writing, node: fx.Node, *tensors: torch.Tensor | None, names: tuple[str, ...]) -> list[Any]:
    """What a layer reads, and its tensors as initialisers."""
    stem = str(node.target) if node.op == "call_module" else node.name
    given = [
        None if one is None else at.scribe.initializer(one, f"{stem}.{name}")
        for one, name in zip(tensors, names, strict=True)
    ]
    while given and given[-1] is None:
        given.pop()
    return [at.value(node.args[0]), *given]


def _window(strides: Any, padding: Any, dilations: Any, groups: int) -> dict[str, Any]:
    return {
        "strides": list(strides), "pads": [*padding, *padding], "dilations": list(dilations), "group": groups
    }  # fmt: skip


def _convolution(at: Writing, node: fx.Node) -> ir.Value:
    layer = at.module(node)
    operands = _operands(at, node, layer.weight, layer.bias, names=("weight", "bias"))
    attributes = _window(layer.stride, layer.padding, layer.dilation, layer.groups)
    attributes["kernel_shape"] = list(layer.kernel_size)
    if not layer.transposed:
        return at.scribe.node("Conv", operands, attributes, str(node.target))
    attributes["output_padding"] = list(layer.output_padding)
    return at.scribe.node("ConvTranspose", operands, attributes, str(node.target))


def _linear(at: Writing, node: fx.Node) -> ir.Value:
    layer = at.module(node)
    return _matrix_product(at, node, layer.weight, layer.bias, str(node.target))


def _matrix_product(at: Writing, node: fx.Node, weight: torch.Tensor, bias: torch.Tensor | None, name: str) -> ir.Value:
    """A Gemm of two axes, as exporters write it; of more, a product and a sum."""
    if len(at.shape(node)) == 2:
        return at.scribe.node("Gemm", _operands(at, node, weight, bias, names=("weight", "bias")), {"transB": 1}, name)
    made = at.scribe.node("MatMul", _operands(at, node, weight.t(), names=("weight",)), {}, name)
    if bias is None:
        return made
    return at.scribe.node("Add", [made, at.scribe.initializer(bias, f"{name}.bias")], {}, f"{name}_bias")


def _batch_norm(at: Writing, node: fx.Node) -> ir.Value:
    layer = at.module(node)
    names = ("weight", "bias", "running_mean", "running_var")
    operands = _operands(at, node, *(getattr(layer, name) for name in names), names=names)
    return at.scribe.node("BatchNormalization", operands, {"epsilon": layer.eps}, str(node.target))


def _instance_norm(at: Writing, node: fx.Node) -> ir.Value:
    layer = at.module(node)
    operands = _operands(at, node, layer.weight, layer.bias, names=("weight", "bias"))
    return at.scribe.node("InstanceNormalization", operands, {"epsilon": layer.eps}, str(node.target))


def _group_norm(at: Writing, node: fx.Node) -> ir.Value:
    layer, groups = at.module(node), at.module(node).num_groups
    weight, bias = layer.weight, layer.bias
    if at.scribe.version < 21:  # one scale a group: they were repeated when the file was read
        weight, bias = (one.reshape(groups, -1)[:, 0] for one in (weight, bias))
    operands = _operands(at, node, weight, bias, names=("weight", "bias"))
    attributes = {"epsilon": layer.eps, "num_groups": groups}
    return at.scribe.node("GroupNormalization", operands, attributes, str(node.target))


def _parametric_relu(at: Writing, node: fx.Node) -> ir.Value:
    weight = at.module(node).weight
    if weight.numel() > 1:
        weight = weight.reshape(-1, *[1] * (len(at.shape(node)) - 2))
    return at.scribe.node("PRelu", _operands(at, node, weight, names=("weight",)), {}, str(node.target))


_LAYERS: dict[type[nn.Module], CallWriter] = {
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _convolution),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), _convolution),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), _batch_norm),
    **dict.fromkeys((nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d), _instance_norm),
    nn.Linear: _linear,
    nn.GroupNorm: _group_norm,
    nn.PReLU: _parametric_relu,
}

# -- functions -------------------------------------------------------------------------------------------------------


def _sum(at: Writing, node: fx.Node) -> ir.Value:
    if all(isinstance(one, fx.Node) for one in node.args):
        return at.scribe.node("Add", [at.value(one) for one in node.args], {}, node.name)
    return at.copied(node)  # a number is an input of the node in the file


def _concat(at: Writing, node: fx.Node) -> ir.Value:
    args: Any = node.args
    joined, axis = args
    return at.scribe.node("Concat", [at.value(one) for one in joined], {"axis": axis}, node.name)


def _narrow(at: Writing, node: fx.Node) -> ir.Value:
    args: Any = node.args
    tensor, axis, start, length = args
    places = {"starts": [start], "ends": [start + length], "axes": [axis]}
    if at.scribe.version < 10:
        return at.scribe.node("Slice", [at.value(tensor)], places, node.name)
    given = [at.scribe.numbers(numbers, f"{node.name}_{name}") for name, numbers in places.items()]
    return at.scribe.node("Slice", [at.value(tensor), *given], {}, node.name)


def _same(at: Writing, node: fx.Node) -> ir.Value:
    return at.value(node.args[0])


def _padded(at: Writing, node: fx.Node) -> ir.Value:
    args: Any = node.args
    tensor, flat, mode, value = args
    return _pad(at, tensor, flat, mode, value, node.name)


def _pad(at: Writing, tensor: Any, flat: Sequence[int], mode: str, value: float | None, name: str) -> ir.Value:
    """Numbers in front and behind, as `torch.nn.functional.pad` counts them: the last axis first."""
    rank = len(at.shape(tensor))
    pairs = list(zip(flat[::2], flat[1::2], strict=True))[::-1]
    pairs = [(0, 0)] * (rank - len(pairs)) + pairs
    pads = [before for before, _ in pairs] + [behind for _, behind in pairs]
    attributes: dict[str, Any] = {"mode": {"replicate": "edge", "circular": "wrap"}.get(mode, mode)}
    if at.scribe.version < 11:
        return at.scribe.node("Pad", [at.value(tensor)], {**attributes, "pads": pads, "value": value or 0.0}, name)
    operands = [at.value(tensor), at.scribe.numbers(pads, f"{name}_pads")]
    if mode == "constant":
        like = torch.tensor(value or 0.0, dtype=at.results[tensor].dtype)
        operands.append(at.scribe.initializer(like, f"{name}_value"))
    return at.scribe.node("Pad", operands, attributes, name)


def _places_within(at: Writing, node: fx.Node) -> ir.Value:
    """For an index that follows from the data; places in any other are computed when the file is written."""
    if at.scribe.version < 12:
        raise EmitError(
            f"the call {node.name} cannot be written: opset {at.scribe.version} clips no whole numbers",
            "Export the model again in opset 12 or later, or leave the site out, by --skip.",
        )
    args: Any = node.args
    index, start, width = args
    shift, low, high, size = (
        at.scribe.initializer(torch.tensor(number, dtype=at.results[index].dtype), f"{node.name}_{name}")
        for name, number in (("start", start), ("low", -1), ("width", width), ("size", width + 1))
    )
    moved = at.scribe.node("Sub", [at.value(index), shift], {}, f"{node.name}_moved")
    within = at.scribe.node("Clip", [moved, low, high], {}, f"{node.name}_within")
    return at.scribe.node("Mod", [within, size], {}, node.name)


def _selected(at: Writing, node: fx.Node) -> ir.Value:
    args: Any = node.args
    tensor, axis, places = args
    behind = [0, 0] * (len(at.shape(tensor)) - 1 - axis) + [0, 1]
    padded = _pad(at, tensor, behind, "constant", None, f"{node.name}_padded")
    return at.scribe.node("Gather", [padded, at.value(places)], {"axis": axis}, node.name)


def _reshaped(at: Writing, node: fx.Node) -> ir.Value:
    args: Any = node.args
    tensor, sizes = args
    if at.scribe.version < 5:
        return at.scribe.node("Reshape", [at.value(tensor)], {"shape": list(sizes)}, node.name)
    return at.scribe.node("Reshape", [at.value(tensor), at.scribe.numbers(sizes, f"{node.name}_sizes")], {}, node.name)


def _resized(at: Writing, node: fx.Node) -> ir.Value:
    """The resizing of the file; sizes, which name the channels too, with those of the new operand."""
    origin = node.meta["onnx"].node
    operands = [at.value(node.args[0]), *(at.original_input(node, place) for place in range(1, len(origin.inputs)))]
    if len(operands) > 3 and operands[3] is not None:
        channels = at.scribe.numbers([at.shape(node)[1]], f"{node.name}_channels")
        zero, one, two = (at.scribe.numbers([place], f"{node.name}_{place}") for place in range(3))
        end = at.scribe.numbers([len(at.shape(node))], f"{node.name}_end")
        batch = at.scribe.node("Slice", [operands[3], zero, one], {}, f"{node.name}_batch")
        space = at.scribe.node("Slice", [operands[3], two, end], {}, f"{node.name}_space")
        operands[3] = at.scribe.node("Concat", [batch, channels, space], {"axis": 0}, f"{node.name}_sizes")
    return at.scribe.node(origin.op_type, operands, dict(origin.attributes), node.name)


def _functional_convolution(at: Writing, node: fx.Node) -> ir.Value:
    args: list[Any] = [*node.args, *[None] * 7][:7]
    tensor, weight, bias, *window = args
    strides, padding, dilations, groups = window
    rank = len(at.shape(tensor)) - 2
    each: list[Any] = [one if isinstance(one, (list, tuple)) else [default if one is None else one] * rank
            for one, default in ((strides, 1), (padding, 0), (dilations, 1))]  # fmt: skip
    operands = [at.value(tensor), at.value(weight), *([] if bias is None else [at.value(bias)])]
    return at.scribe.node("Conv", operands, _window(each[0], each[1], each[2], groups or 1), node.name)


def _functional_linear(at: Writing, node: fx.Node) -> ir.Value:
    args: Any = node.args
    weight, bias = at.results[args[1]], at.results.get(args[2]) if len(args) > 2 else None
    return _matrix_product(at, node, weight, bias, node.name)


_CALLS: dict[Any, CallWriter] = {
    **dict.fromkeys((operator.add, operator.iadd, torch.add, "add_"), _sum),
    **dict.fromkeys((F.conv1d, F.conv2d, F.conv3d), _functional_convolution),
    torch.cat: _concat,
    "narrow": _narrow,
    "clone": _same,
    F.pad: _padded,
    places_within: _places_within,
    selected: _selected,
    torch.reshape: _reshaped,
    F.interpolate: _resized,
    F.linear: _functional_linear,
}
