"""A captured model as a Python file that needs nothing but torch and safetensors."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx, nn

from skipgraph.capture import Captured, capture
from skipgraph.capture.trees import map_tensors
from skipgraph.cost import price
from skipgraph.emit.body import Body
from skipgraph.emit.classes import Call, Classes, Template, leaf, tensor_text
from skipgraph.emit.epilogue import epilogue
from skipgraph.emit.literals import literal
from skipgraph.emit.regions import Region, is_chain, is_numbered, regions, to_dissolve
from skipgraph.errors import EmitError
from skipgraph.graph import build
from skipgraph.passes import forms

Inputs = tuple[tuple[Any, ...], dict[str, Any]]
_MOST_ROUNDS = 8
_ROOT = "Model"
_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


def source(captured: Captured, inputs: Inputs, *, title: str, notes: Sequence[str] = ()) -> str:
    """The text of ``model.py``.

    Calls of modules become forwards of their own where they are one stretch of the graph; those whose arguments would
    be held at the peak of memory, because a call holds its arguments, are written into the forward around them.

    Parameters
    ----------
    captured : Captured
        The state-dict keys of the emitted model are its own, in the same order.
    inputs : tuple
        Positional and keyword inputs, whose shapes ``example_inputs`` has.
    title : str
        First line of the file's docstring.
    notes : sequence of str
        What was changed where.

    Raises
    ------
    EmitError
        If something cannot be written as Python.
    """
    graphs = _graphs(captured)
    dissolved = to_dissolve(captured, graphs)
    text = _Writer(captured, inputs, dissolved).write(title, notes)
    aim = _peak(captured, inputs)[0]
    best = text
    lowest, held = _emitted_peak(text, inputs)
    for _ in range(_MOST_ROUNDS):
        if lowest <= aim or not held - dissolved:
            break
        dissolved = _closed(captured, graphs, dissolved | held)
        text = _Writer(captured, inputs, dissolved).write(title, notes)
        peak, held = _emitted_peak(text, inputs)
        if peak < lowest:
            best, lowest = text, peak
    return best


def _graphs(captured: Captured) -> dict[bool, fx.Graph]:
    if captured.graphs[False] is captured.graphs[True]:
        return {False: captured.graphs[False]}
    return dict(captured.graphs)


def _closed(captured: Captured, graphs: dict[bool, fx.Graph], dissolved: set[str]) -> set[str]:
    """``dissolved`` and what cannot be a forward of its own then."""
    return dissolved | to_dissolve(captured, graphs)


def load_source(text: str) -> dict[str, Any]:
    """The names that an emitted file defines, without writing it."""
    names: dict[str, Any] = {"__name__": "emitted", "__file__": "model.py"}
    exec(compile(text, "model.py", "exec"), names)
    return names


def _peak(model: nn.Module, inputs: Inputs) -> tuple[int, set[str]]:
    """The peak of activations, and the modules that are running then, from the outermost on."""
    args, kwargs = map_tensors(lambda tensor: tensor.to("meta"), inputs)
    program = capture(model, args, kwargs)
    graph = build(program)
    price(graph, program)
    if not graph.cost.peak_node:
        return 0, set()
    parts = graph.nodes[graph.cost.peak_node]["module"].split(".")
    return graph.cost.peak_bytes, {".".join(parts[: count + 1]) for count in range(len(parts))}


def _emitted_peak(text: str, inputs: Inputs) -> tuple[int, set[str]]:
    with torch.device("meta"):
        model = load_source(text)["_structure"]()
    return _peak(model.eval(), inputs)


class _Writer:
    """Writes one file, with the modules in ``dissolved`` written into what is around them."""

    def __init__(self, captured: Captured, inputs: Inputs, dissolved: set[str]) -> None:
        self.captured = captured
        self.inputs = inputs
        self.trees = {mode: regions(graph, dissolved) for mode, graph in _graphs(captured).items()}
        self.called: dict[str, dict[bool, Region]] = {}
        for mode, tree in self.trees.items():
            for region in tree.regions():
                self.called.setdefault(region.path, {})[mode] = region
        self.functions: dict[str, Any] = {}
        self.classes = Classes()
        self.made: dict[str, Call | str] = {}
        self.alias_of: dict[str, str] = {}

    def write(self, title: str, notes: Sequence[str]) -> str:
        self._define_all()
        body = "\n\n\n".join([*map(self._function_text, self.functions.values()), *self.classes.texts])
        tail = epilogue(self.captured, self.inputs, self.alias_of)
        lines = [f'"""{title}', "", *notes, '"""', ""] if notes else [f'"""{title}"""', ""]
        imports = ["import torch"] if "torch." in body + tail else []
        extra = [f"import {name}" for name in ("math", "operator") if f"{name}." in body]
        if "F." in body:
            imports.append("import torch.nn.functional as F")
        imports.append("from torch import nn")
        early = ["from collections import OrderedDict"] if "OrderedDict(" in body else []
        head = "\n".join([*lines, *extra, *early, "from pathlib import Path", "", *imports])
        return f"{head}\n\n{tail.split(chr(0))[0]}\n\n\n{body}\n\n\n{tail.split(chr(0))[1]}"

    # -- classes -----------------------------------------------------------------------------------------------------

    def _define_all(self) -> None:
        """Constructors of all modules, from the leaves up; modules of one height are looked at together."""
        modules: dict[str, nn.Module] = {}
        first: dict[int, str] = {}
        for path, module in self.captured.named_modules(remove_duplicate=False):
            if id(module) in first and path:
                self.alias_of[path] = first[id(module)]
                continue
            if any(path.startswith(alias + ".") for alias in self.alias_of):
                continue
            first[id(module)] = path
            modules[path] = module
        levels: dict[int, list[str]] = {}
        for path in modules:
            levels.setdefault(self._height(modules[path]), []).append(path)
        for height in sorted(levels):
            pending: list[tuple[str, Template]] = []
            for path in levels[height]:
                module = modules[path]
                if path and self._is_leaf(path, module):
                    self.made[path] = leaf(module)
                elif path and self._is_plain_container(path, module):
                    self.made[path] = self._container(path, module)
                else:
                    pending.append((path, self._template(path, module)))
            for (path, _), call in zip(pending, self.classes.define([one for _, one in pending]), strict=True):
                self.made[path] = call

    def _height(self, module: nn.Module) -> int:
        return 1 + max((self._height(child) for child in module._modules.values() if child is not None), default=0)

    def _is_leaf(self, path: str, module: nn.Module) -> bool:
        named = type(module).__module__.startswith(("torch.nn.", "torch.ao.nn."))
        return (
            named
            and path not in self.called
            and not isinstance(module, (*_CONTAINERS, nn.Sequential))
            and not (type(module).__module__.startswith("torch.nn.modules.transformer"))
        )

    def _is_plain_container(self, path: str, module: nn.Module) -> bool:
        if type(module) in _CONTAINERS:
            return True
        running = self.called.get(path, {})
        return is_numbered(module) and all(is_chain(region, module) for region in running.values())

    def _container(self, path: str, module: nn.Module) -> Call:
        if isinstance(module, (nn.ParameterList, nn.ParameterDict)):
            keyed = isinstance(module, nn.ParameterDict)
            tensors = [
                (name, tensor_text(one, parameter=True)) for name, one in module._parameters.items() if one is not None
            ]
            return Call(f"nn.{type(module).__name__}", [], list(tensors), keyed)
        children = [(name, self._child(path, name)) for name in module._modules]
        kind = "Sequential" if isinstance(module, nn.Sequential) else type(module).__name__
        return Call(f"nn.{kind}", [], children, isinstance(module, nn.ModuleDict))

    def _child(self, path: str, name: str) -> Call | str:
        child = f"{path}.{name}" if path else name
        if child in self.alias_of:
            return "nn.Identity()"
        return self.made.get(child, "nn.Identity()")

    def _template(self, path: str, module: nn.Module) -> Template:
        attributes: list[tuple[str, Call | str]] = []
        extra = []
        for name, parameter in module._parameters.items():
            if parameter is None:
                extra.append(f"self.register_parameter({literal(name)}, None)")
            else:
                attributes.append((name, tensor_text(parameter, parameter=True)))
        for name, buffer in module._buffers.items():
            text = "None" if buffer is None else tensor_text(buffer, parameter=False)
            kept = "" if name not in module._non_persistent_buffers_set else ", persistent=False"
            extra.append(f"self.register_buffer({literal(name)}, {text}{kept})")
        for name, tensor in vars(module).items():
            if isinstance(tensor, torch.Tensor):
                extra.append(f"self.{name} = {tensor_text(tensor, parameter=False)}")
        attributes += [(name, self._child(path, name)) for name in module._modules if module._modules[name] is not None]
        extra += [f"self.{name} = None" for name, child in module._modules.items() if child is None]
        forward, parameters = self._forward(path)
        if not path:
            extra += self._modes()
        return Template(
            _class_name(module) if path else _ROOT,
            attributes,
            extra,
            forward,
            parameters,
            "" if forward else "Its layers are called by the forward around it.",
        )

    def _modes(self) -> list[str]:
        return []

    # -- forwards ----------------------------------------------------------------------------------------------------

    def _forward(self, path: str) -> tuple[dict[str, list[str]], list[str]]:
        running = self.called.get(path)
        if running is None:
            return {}, []
        written = {}
        parameters: list[str] = []
        for mode, region in running.items():
            if path:
                parameters = _names(len(region.inputs))
                body = Body(self.captured, region, parameters, self._printed, root=False)
                written[mode] = body.write()
            else:
                graph = self.trees and _graphs(self.captured)[mode]
                region.inputs = list(graph.find_nodes(op="placeholder"))  # type: ignore[union-attr]
                parameters = [str(node.target) for node in region.inputs]
                body = Body(self.captured, region, parameters, self._printed, root=True)
                written[mode] = body.write(graph.output_node().args[0])  # type: ignore[union-attr]
        if len(set(map(tuple, written.values()))) == 1:
            return {"both": next(iter(written.values()))}, parameters
        return {"training": written[True], "evaluation": written[False]}, parameters

    def _printed(self, function: Any) -> str:
        """Note a function of ours, and those of its module that it calls."""
        name = function.__name__
        if name in self.functions:
            return str(name)
        if function.__module__ != forms.__name__:
            raise EmitError(f"{function.__module__}.{name} is called", "It cannot be written out.")
        text = inspect.getsource(function)
        for other, value in vars(forms).items():
            if inspect.isfunction(value) and other != name and f"{other}(" in text:
                self._printed(value)
        self.functions[name] = function
        return str(name)

    def _function_text(self, function: Any) -> str:
        return inspect.getsource(function).rstrip()


def _class_name(module: nn.Module) -> str:
    name = type(module).__name__.lstrip("_")
    return "Part" if name in (_ROOT, "Captured") or not name.isidentifier() else name[0].upper() + name[1:]


def _names(count: int) -> list[str]:
    return ["x", "y", "z", "u", "v", "w"][:count] if count <= 6 else [f"x{place}" for place in range(count)]
