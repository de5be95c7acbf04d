"""A captured model as a Python file that needs nothing but torch and safetensors."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from skipgraph.capture import Captured
from skipgraph.emit.body import Body
from skipgraph.emit.branches import merged
from skipgraph.emit.classes import Call, Classes, Template, leaf, parameter, zeros
from skipgraph.emit.epilogue import SEPARATOR, epilogue
from skipgraph.emit.literals import literal
from skipgraph.emit.peaks import Held, Inputs, observed
from skipgraph.emit.regions import Region, is_chain, is_numbered, regions, to_dissolve
from skipgraph.errors import EmitError
from skipgraph.passes import forms

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

    def attempt(chosen: set[str]) -> _Attempt:
        dissolved = chosen | to_dissolve(captured, graphs, chosen)
        text = _Writer(captured, inputs, dissolved).write(title, notes)
        return _Attempt(chosen, text, _observed(text, inputs))

    best = latest = attempt(set())
    aim = observed(captured, inputs).peak
    for _ in range(_MOST_ROUNDS):
        more = latest.held.running(above=aim) - latest.dissolved
        if best.held.peak <= aim or not more:
            break
        latest = attempt(latest.dissolved | more)
        best = min(best, latest, key=lambda one: one.held.peak)
    # What was dissolved with the others, but without need.
    for depth in sorted({path.count(".") for path in best.dissolved}, reverse=True):
        other = attempt({path for path in best.dissolved if path.count(".") != depth})
        best = min(other, best, key=lambda one: one.held.peak)
    return best.text


@dataclass(frozen=True, slots=True)
class _Attempt:
    """A text, which modules were written into what is around them for memory's sake, and what it holds when run."""

    dissolved: set[str]
    text: str
    held: Held


def _graphs(captured: Captured) -> dict[bool, fx.Graph]:
    if captured.graphs[False] is captured.graphs[True]:
        return {False: captured.graphs[False]}
    return dict(captured.graphs)


def load_source(text: str) -> dict[str, Any]:
    """The names that an emitted file defines, without writing it."""
    names: dict[str, Any] = {"__name__": "emitted", "__file__": "model.py"}
    exec(compile(text, "model.py", "exec", dont_inherit=True), names)
    return names


def _observed(text: str, inputs: Inputs) -> Held:
    with torch.device("meta"):
        model = load_source(text)["_structure"]()
    return observed(model.eval(), inputs)


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
        head = "\n".join([*lines, *_imports(body, tail)])
        names, ends = tail.split(SEPARATOR)
        return f"{head}\n\n{names}\n\n\n{body}\n\n\n{ends}"

    # -- classes -----------------------------------------------------------------------------------------------------

    def _define_all(self) -> None:
        """Constructors of all modules, from the leaves up; modules of one height are looked at together."""
        modules: dict[str, nn.Module] = {}
        first: dict[int, str] = {}
        leaves: list[str] = []
        for path, module in self.captured.named_modules(remove_duplicate=False):
            if id(module) in first and path:
                self.alias_of[path] = first[id(module)]
                continue
            if any(path.startswith(f"{outer}.") for outer in (*self.alias_of, *leaves)):
                continue
            first[id(module)] = path
            modules[path] = module
            if path and self._is_leaf(path, module):
                leaves.append(path)
        levels: dict[int, list[str]] = {}
        for path in modules:
            levels.setdefault(self._height(modules[path]), []).append(path)
        for height in sorted(levels):
            pending: list[tuple[str, Template]] = []
            for path in levels[height]:
                module = modules[path]
                if path and self._is_leaf(path, module):
                    self.made[path] = leaf(path, module)
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
            tensors = [(name, parameter(one)) for name, one in module._parameters.items() if one is not None]
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
        for name, tensor in module._parameters.items():
            if tensor is None:
                extra.append(f"self.register_parameter({literal(name)}, None)")
            else:
                attributes.append((name, parameter(tensor)))
        buffers: list[tuple[str, Call | str, bool]] = [
            (name, "None" if tensor is None else zeros(tensor), name not in module._non_persistent_buffers_set)
            for name, tensor in module._buffers.items()
        ]
        attributes += [
            (name, zeros(tensor)) for name, tensor in vars(module).items() if isinstance(tensor, torch.Tensor)
        ]
        attributes += [(name, self._child(path, name)) for name in module._modules if module._modules[name] is not None]
        extra += [f"self.{name} = None" for name, child in module._modules.items() if child is None]
        forward, parameters = self._forward(path)
        return Template(
            _class_name(module) if path else _ROOT,
            attributes,
            buffers,
            extra,
            forward,
            parameters,
            "" if forward else "Its forward is written into the one around it.",
            [] if path else self._train(),
        )

    def _train(self) -> list[str]:
        """The method that sets the mode, of a model some of whose modules stay in evaluation when it trains."""
        frozen = sorted(self.captured.frozen_modes)
        if not frozen:
            return []
        return [
            "def train(self, mode=True):",
            "    super().train(mode)",
            "    for path in (",
            *(f"        {literal(path)}," for path in frozen),
            "    ):",
            "        self.get_submodule(path).training = False",
            "    return self",
        ]

    # -- forwards ----------------------------------------------------------------------------------------------------

    def _forward(self, path: str) -> tuple[list[str], list[str]]:
        """The statements of a module's forward, and its parameters."""
        running = self.called.get(path)
        if running is None:
            return [], []
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
        return merged(written[False], written.get(True, written[False])), parameters

    def _printed(self, function: Any) -> str:
        """Note a function of ours, and those of its module that it calls."""
        name = function.__name__
        if name in self.functions:
            return str(name)
        if function.__module__ != forms.__name__:
            raise EmitError(
                f"the autograd function {name} is applied, whose class belongs to somebody",
                "Write its forward as calls of torch.",
            )
        text = inspect.getsource(function)
        for other, value in vars(forms).items():
            if inspect.isfunction(value) and other != name and f"{other}(" in text:
                self._printed(value)
        self.functions[name] = function
        return str(name)

    def _function_text(self, function: Any) -> str:
        return inspect.getsource(function).rstrip()


def _imports(body: str, tail: str) -> list[str]:
    """What a file with this text must import."""

    def used(name: str) -> bool:
        return re.search(rf"(?<![\w.\"]){name}", body) is not None

    return [
        *(f"import {name}" for name in ("math", "operator") if used(rf"{name}\.")),
        *(["from collections import OrderedDict"] if used(r"OrderedDict\(") else []),
        *(["from pathlib import Path"] if "Path(" in tail else []),
        *(["from typing import Any"] if used(r"Any\b") else []),
        "",
        *(["import torch"] if "torch." in body + tail else []),
        *(["import torch.nn.functional as F"] if used(r"F\.") else []),
        "from torch import nn",
    ]


def _class_name(module: nn.Module) -> str:
    name = type(module).__name__.lstrip("_")
    return "Part" if name in (_ROOT, "Captured") or not name.isidentifier() else name[0].upper() + name[1:]


def _names(count: int) -> list[str]:
    return ["x", "y", "z", "u", "v", "w"][:count] if count <= 6 else [f"x{place}" for place in range(count)]
