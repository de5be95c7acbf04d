"""An ONNX graph -> the graph of an `OnnxModel`, operator by operator, on tensors without data.

What depends on no model input (sizes above all, which exporters compute node by node) is computed at once, so that the
graph that is made holds what is done to data alone.
"""

from __future__ import annotations

import itertools
import keyword
import operator
import re
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn

from skipgraph.capture.calls import ScopedGraph
from skipgraph.capture.onnx.at import At, UnsupportedError, converter_of
from skipgraph.capture.onnx.file import graph_inputs
from skipgraph.capture.onnx.model import OnnxModel, Origin, Root, Unseen, nodes_of, outer_values
from skipgraph.capture.onnx.operators import load_families
from skipgraph.capture.onnx.tensors import dtype_of, read
from skipgraph.capture.trees import map_tensors, tensors
from skipgraph.errors import CaptureError, SkipgraphError, first_line
from skipgraph.silence import silent

if TYPE_CHECKING:
    import onnx_ir as ir

_OLDEST = 7  # the first operator set in which shapes are broadcast as numpy does
_WORD = re.compile(r"\W+")


def read_model(file: ir.Model, inputs: Mapping[str, torch.Tensor], *, data: bool, path: Path) -> OnnxModel:
    """Make a model of a file, for inputs of these shapes.

    Parameters
    ----------
    file : onnx_ir.Model
        See `skipgraph.capture.onnx.file.load_file`.
    inputs : mapping
        Name of each graph input -> a tensor of its shape and dtype; its values are not looked at.
    data : bool
        Read the weights; otherwise parameters are on the meta device.
    path : Path
        Where the file lies.

    Raises
    ------
    CaptureError
        If an operator can neither be run nor its results' shapes be known.
    SourceError
        If data cannot be read.
    """
    load_families()
    return Reader(file, inputs, data=data).read(path)


class Reader:
    """Reads one file once."""

    def __init__(self, file: ir.Model, inputs: Mapping[str, torch.Tensor], *, data: bool) -> None:
        self.file = file
        self.inputs = inputs
        self.data = data
        self.root = Root()
        self.graph = ScopedGraph()
        self._operands: dict[ir.Value, Any] = {}
        self._names: dict[int, str] = {}  # id of a tensor of the file -> its name
        self._layouts: dict[tuple[int, Hashable], torch.Tensor] = {}
        self._constants: dict[int, fx.Node] = {}
        self._kept: list[torch.Tensor] = []  # so that no id is used twice
        self._labels: dict[str, tuple[str, str]] = {}
        self._paths: set[str] = set()
        self._made: list[fx.Node] = []  # of the node that is being converted
        self._shapes_inferred = False
        self._unseen: Counter[str] = Counter()

    def read(self, path: Path) -> OnnxModel:
        """The model."""
        graph = self.file.graph
        self._check_versions()
        for value in graph_inputs(self.file):
            name = _word(str(value.name))
            node = self.graph.placeholder(name)
            self._know(node, torch.empty_like(self.inputs[str(value.name)], device="meta"))
            self._operands[value] = node
        self._run(graph)
        outputs = [self._as_node(self.operand(value)) for value in graph.outputs]
        self.graph.output(outputs[0] if len(outputs) == 1 else tuple(outputs))
        self._prune()
        calls: dict[ir.Value, str] = {}
        for value, operand in self._operands.items():
            made = operand if isinstance(operand, fx.Node) else self._constants.get(id(operand))
            if made is not None:
                calls[value] = made.name
        return OnnxModel(self.root, self.graph, self.file, calls, self._labels, self._notes(), path)

    def _notes(self) -> list[str]:
        """What users should know of operators that cannot be run."""
        return [
            f"{count} × {name}: skips inside are not seen, and what it costs is not known"
            for name, count in self._unseen.items()
        ]

    def _check_versions(self) -> None:
        version = self.file.opset_imports.get("", _OLDEST)
        if version < _OLDEST:
            raise CaptureError(
                f"the model is of operator set {version}, which broadcasts in another way",
                f"Convert it to {_OLDEST} or newer, by onnx.version_converter.convert_version.",
            )

    # -- nodes of the file -------------------------------------------------------------------------------------------

    def _run(self, graph: ir.Graph) -> None:
        for node in graph:
            self._convert(node)

    def _convert(self, node: ir.Node) -> None:
        version = self.file.opset_imports.get("" if node.domain in ("", "ai.onnx") else node.domain, _OLDEST)
        converter = converter_of(node)
        try:
            if node.op_type == "If":
                made = self._branch(node)
            elif converter is None:
                raise UnsupportedError("skipgraph knows no such operator")
            else:
                made = converter(At(self, node, version))
        except UnsupportedError as error:
            made = self._opaque(node, str(error))
        except (SkipgraphError, MemoryError):
            raise
        except Exception as error:
            raise self._failure(node, error) from error
        self._remember(node)
        results = made if isinstance(made, tuple) else (made,)
        for value, result in zip(node.outputs, results, strict=False):
            self._operands[value] = result

    def _branch(self, node: ir.Node) -> Any:
        """The branch of an If whose condition is known."""
        assert node.inputs[0] is not None
        condition = self.operand(node.inputs[0])
        if isinstance(condition, fx.Node):
            raise UnsupportedError("which way it goes depends on data")
        branch = node.attributes["then_branch" if bool(condition) else "else_branch"].as_graph()
        self._run(branch)
        return tuple(self.operand(value) for value in branch.outputs)

    def _failure(self, node: ir.Node, error: Exception) -> CaptureError:
        operands = [self._operands.get(value) for value in node.inputs if value is not None]
        shapes = ", ".join("x".join(map(str, one.meta.get("shape", ()))) for one in nodes_of(operands))
        return CaptureError(
            f"the node {node.name} ({node.op_type}) does not run on tensors of shape {shapes or 'unknown'}: "
            f"{first_line(error)}",
            "Check the inputs: give each one's shape as the model expects it, --input NAME=1x3x224x224.",
        )

    # -- operands ----------------------------------------------------------------------------------------------------

    def operand(self, value: ir.Value) -> Any:
        """What stands for an ONNX value: a tensor where it depends on no model input, else a node."""
        if value not in self._operands:
            tensor = value.const_value
            if tensor is None:
                raise CaptureError(f"the value {value.name} is made by no node", "Export the model again.")
            made = read(tensor, data=self.data)
            if made is None:
                raise UnsupportedError(f"PyTorch has no tensors of type {tensor.dtype.name}")
            self._names[id(made)] = str(value.name)
            self._kept.append(made)
            self._operands[value] = made
        return self._operands[value]

    def name_of(self, tensor: torch.Tensor | None) -> str | None:
        """The name of a tensor of the file."""
        return self._names.get(id(tensor))

    def renamed(self, tensor: torch.Tensor, original: torch.Tensor, layout: Hashable) -> torch.Tensor:
        """A tensor that stands for one of the file in another layout: the same one each time, under the same name."""
        key = id(original), layout
        if key not in self._layouts:
            self._kept += [tensor, original]
            if id(original) in self._names:
                self._names[id(tensor)] = self._names[id(original)]
            self._layouts[key] = tensor
        return self._layouts[key]

    def _as_node(self, operand: Any) -> fx.Node:
        """An operand as a node: parameters and constants are read by one."""
        if isinstance(operand, fx.Node):
            return operand
        if id(operand) not in self._constants:
            name = self._free(_word(self.name_of(operand) or "constant"))
            if operand.is_floating_point() and operand.numel() > 1:
                self.root.register_parameter(name, self._parameter(operand))
            else:
                self.root.register_buffer(name, operand)
            first = next(iter(self.graph.nodes), None)
            with self.graph.inserting_before(first):
                node = self.graph.get_attr(name)
            self._kept.append(operand)
            self._constants[id(operand)] = node
            self._know(node, operand.to("meta"))
        return self._constants[id(operand)]

    def _parameter(self, tensor: torch.Tensor) -> nn.Parameter:
        """A parameter of its own on the tensor's numbers.

        Exporters let layers share equal tensors, two biases of zeros say: that is no tie that a rewrite has to keep.
        """
        return nn.Parameter(tensor, requires_grad=tensor.is_floating_point())

    # -- calls -------------------------------------------------------------------------------------------------------

    def call(self, origin: ir.Node, op: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A call on operands: a node of the graph, or its result if no operand is one."""
        if not nodes_of((args, kwargs)):
            function = target if op == "call_function" else getattr(torch.Tensor, target)
            return function(*_together(args), **_together(kwargs))
        given_args, given_kwargs = map_tensors(self._as_node, args), map_tensors(self._as_node, kwargs)
        node = self.graph.create_node(op, target, given_args, given_kwargs, name=_label(origin))
        return self._finish(origin, node)

    def layer(
        self, origin: ir.Node, module: nn.Module, own: Mapping[str, torch.Tensor | None], operands: Sequence[Any]
    ) -> Any:
        """A call of a layer."""
        for name, tensor in own.items():
            if name in module._parameters:
                module._parameters[name] = None if tensor is None else self._parameter(tensor)
            elif name in module._buffers:
                module._buffers[name] = tensor
        module.eval()
        if not nodes_of(operands):
            with torch.no_grad():
                return module(*_together(tuple(operands)))
        named = (self.name_of(tensor) for tensor in own.values() if tensor is not None)
        path = self._place(module, next((one for one in named if one), None), origin)
        node = self.graph.create_node(
            "call_module", path, map_tensors(self._as_node, tuple(operands)), {}, name=_label(origin)
        )
        return self._finish(origin, node)

    def piece(self, origin: ir.Node, whole: fx.Node, place: int) -> fx.Node:
        """One of the tensors that a call makes."""
        node = self.graph.call_function(operator.getitem, (whole, place))
        return self._finish(origin, node)

    def _finish(self, origin: ir.Node, node: fx.Node) -> fx.Node:
        """Find out what a call makes, by running it without data."""
        self._labels.setdefault(node.name, (_name(origin), origin.op_type))
        self._know(node, self._result(node))
        node.meta["onnx"] = Origin(origin, None)
        self._made.append(node)
        return node

    def _remember(self, origin: ir.Node) -> None:
        """Note which inputs of an ONNX node the tensors of a call are, if that one call is all that it does."""
        calls = [node for node in self._made if node.target is not operator.getitem or node.args[0] not in self._made]
        self._made.clear()
        if len(calls) != 1:
            return
        places: dict[int, list[int]] = {}
        for place, value in enumerate(origin.inputs):
            operand = self._operands.get(value) if value is not None else None
            node = operand if isinstance(operand, fx.Node) else self._constants.get(id(operand))
            if node is not None:
                places.setdefault(id(node), []).append(place)
        found = [
            places[id(node)].pop(0) if places.get(id(node)) else None
            for node in nodes_of((calls[0].args, calls[0].kwargs))
        ]
        if None not in found:
            calls[0].meta["onnx"] = Origin(origin, tuple(found))  # type: ignore[arg-type]

    def _result(self, node: fx.Node) -> Any:
        def value(one: fx.Node) -> Any:
            return one.meta["value"]

        args: Any = fx.map_arg(node.args, value)
        kwargs: Any = fx.map_arg(node.kwargs, value)
        with torch.no_grad():
            if node.op == "call_module":
                module = self.root.get_submodule(str(node.target))
                shadows = {name: tensor.to("meta") for name, tensor in _tensors(module)}
                return torch.func.functional_call(module, shadows, args)
            target: Any = node.target
            return target(*args, **kwargs) if node.op == "call_function" else getattr(args[0], target)(*args[1:])

    def _know(self, node: fx.Node, value: Any) -> None:
        node.meta["value"] = value
        if isinstance(value, torch.Tensor):
            node.meta["shape"] = tuple(value.shape)

    def _prune(self) -> None:
        """Take out what nobody reads, but for inputs."""
        for node in reversed(list(self.graph.nodes)):
            if not node.users and node.op not in ("placeholder", "output"):
                self.graph.erase_node(node)
            else:
                node.meta.pop("value", None)

    # -- opaque ------------------------------------------------------------------------------------------------------

    def _opaque(self, node: ir.Node, reason: str) -> Any:
        """A node that cannot be run, as a module that makes results of its shapes."""
        results: list[tuple[tuple[int, ...], torch.dtype]] = []
        for value in node.outputs:
            if not value.name:  # left out
                results.append(((0,), torch.float32))
                continue
            shape, dtype = self._shape_of(value), dtype_of(value.dtype) if value.dtype is not None else None
            if shape is None or dtype is None:
                raise CaptureError(
                    f"the node {node.name} ({node.domain and node.domain + '::'}{node.op_type}) cannot be run "
                    f"({reason}), and the file does not say what shape its result {value.name} has",
                    "Write the shapes into the file, by onnx.shape_inference, or by the tool that exported it.",
                )
            results.append((shape, dtype))
        given = [value for value in node.inputs if value is not None]
        operands = [self._as_node(self.operand(value)) for value in (*given, *outer_values(node))]
        path = self._place(Unseen(results, reason), None, node)
        made = self._finish(node, self.graph.create_node("call_module", path, tuple(operands), {}))
        self._unseen[f"{node.op_type}: {reason}"] += 1
        if len(results) == 1:
            return made
        return tuple(self.piece(node, made, place) for place in range(len(results)))

    def _shape_of(self, value: ir.Value) -> tuple[int, ...] | None:
        found = self._static(value)
        if found is None and not self._shapes_inferred:
            self._shapes_inferred = True
            self._infer_shapes()
            found = self._static(value)
        return found

    def _static(self, value: ir.Value) -> tuple[int, ...] | None:
        if value.shape is None:
            return None
        known = self._sizes()
        sizes = [size if isinstance(size, int) else known.get(str(size.value)) for size in value.shape]
        return None if None in sizes else tuple(sizes)  # type: ignore[arg-type]

    def _sizes(self) -> dict[str, int]:
        """The sizes that the file has names for, from the inputs."""
        found: dict[str, int] = {}
        for value in self.file.graph.inputs:
            given = self.inputs.get(str(value.name))
            if given is not None and value.shape is not None:
                for size, actual in zip(value.shape, given.shape, strict=False):
                    if not isinstance(size, int) and size.value is not None:
                        found[str(size.value)] = int(actual)
        return found

    def _infer_shapes(self) -> None:
        from onnx_ir.passes.common import ShapeInferencePass

        # An operator that onnx does not know, or a file above its limit of 2 GB, is no error: it logs a traceback.
        with silent("onnx_ir"), suppress(Exception):
            ShapeInferencePass(data_prop=True)(self.file)

    # -- names -------------------------------------------------------------------------------------------------------

    def _place(self, module: nn.Module, tensor: str | None, origin: ir.Node) -> str:
        """Put a layer where its tensors' names say that it was, or else under the name of its node."""
        path = tensor.rpartition(".")[0] if tensor and "." in tensor and _is_path(tensor) else ""
        if not path or not self._open(path):
            path = self._free(_label(origin))
        owner: nn.Module = self.root
        for part in path.split(".")[:-1]:
            if part not in owner._modules:
                owner.add_module(part, Root())
            owner = owner._modules[part]  # type: ignore[assignment]
        owner.add_module(path.rpartition(".")[2], module)
        self._paths.add(path)
        return path

    def _open(self, path: str) -> bool:
        """Whether a layer can stand at ``path``."""
        owner: nn.Module = self.root
        parts = path.split(".")
        for place, part in enumerate(parts):
            if part in owner._modules:
                if place == len(parts) - 1 or ".".join(parts[: place + 1]) in self._paths:
                    return False
                owner = owner._modules[part]  # type: ignore[assignment]
            else:
                return not hasattr(owner, part)
        return False

    def _free(self, name: str) -> str:
        candidates = itertools.chain([name], (f"{name}_{number}" for number in itertools.count(1)))
        return next(one for one in candidates if not hasattr(self.root, one))


def _name(node: ir.Node) -> str:
    """What the file calls a node; some exporters name results alone."""
    return str(node.name or node.outputs[0].name)


def _label(node: ir.Node) -> str:
    return _word(_name(node)) or "node"


def _word(name: str) -> str:
    """``name`` as a name of Python."""
    word = _WORD.sub("_", name).strip("_")
    return f"_{word}" if word[:1].isdigit() or keyword.iskeyword(word) else word


def _is_path(name: str) -> bool:
    return all((part.isidentifier() and not keyword.iskeyword(part)) or part.isdigit() for part in name.split("."))


def _together(tree: Any) -> Any:
    """Tensors on one device: that without data, if any of them has none."""
    if len({one.device.type for one in tensors(tree)}) < 2:
        return tree
    return map_tensors(lambda one: one.to("meta"), tree)


def _tensors(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]
