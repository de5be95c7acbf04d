"""The classes of an emitted model: equal ones once, what differs between them an argument of the constructor."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized, type_before_parametrizations

from skipgraph.emit.layout import spaced_slices, wrapped
from skipgraph.emit.literals import layer, literal
from skipgraph.emit.numbers import numbers, replaced
from skipgraph.errors import EmitError

PARAMETRIZED = "nn.utils.parametrizations."
_PARAMETER = "nn.Parameter"


@dataclass(slots=True)
class Call:
    """A constructor with its arguments; ``children`` are the elements of a container, one a line.

    ``arguments`` are ``(keyword or "", name, value)``: the name is that of the value in the class around it.
    """

    callee: str
    arguments: list[tuple[str, str, Any]] = field(default_factory=list)
    children: list[tuple[str, Call | str]] = field(default_factory=list)
    keyed: bool = False

    def shape(self) -> tuple[Any, ...]:
        """All but the values."""
        inner = tuple((key, one if isinstance(one, str) else one.shape()) for key, one in self.children)
        return self.callee, tuple((keyword, name) for keyword, name, _ in self.arguments), inner

    def values(self, prefix: str) -> list[tuple[str, Any]]:
        """The values with their names, those of children included."""
        own = [(_joined(prefix, name), value) for _, name, value in self.arguments]
        for key, one in self.children:
            if isinstance(one, Call):
                own += one.values(_joined(prefix, key))
        return own

    def text(self, prefix: str, shown: Callable[[str, Any], str]) -> str:
        """The call, with each value as ``shown`` says."""
        given = [
            (f"{keyword}=" if keyword else "") + shown(_joined(prefix, name), value)
            for keyword, name, value in self.arguments
        ]
        elements = [
            (f"{literal(key)}: " if self.keyed else "")
            + (one if isinstance(one, str) else one.text(_joined(prefix, key), shown))
            for key, one in self.children
        ]
        if not self.children:
            return f"{self.callee}({', '.join(given)})"
        if self.callee.startswith(PARAMETRIZED) or self.callee == _PARAMETER:
            return f"{self.callee}({', '.join([*elements, *given])})"
        if self.callee == "nn.Sequential":
            return f"{self.callee}({', '.join(elements)})"
        opening, closing = "{}" if self.keyed else "[]"
        return f"{self.callee}({opening}{', '.join(elements)}{closing})"


@dataclass(slots=True)
class Template:
    """A class of the emitted file, before what differs between its instances is known.

    ``buffers`` are registered: name, tensor, and whether the state dict has it.
    """

    name: str
    attributes: list[tuple[str, Call | str]]
    buffers: list[tuple[str, Call | str, bool]]
    extra: list[str]
    forward: list[str]
    parameters: list[str]
    doc: str
    method: list[str] = field(default_factory=list)

    def key(self) -> tuple[Any, ...]:
        """What must be equal for two instances to be of one class."""
        shapes = tuple((name, one if isinstance(one, str) else one.shape()) for name, one in self._made())
        kept = tuple(persistent for _, _, persistent in self.buffers)
        forward = tuple(replaced(self.forward, ["0"] * len(numbers(self.forward))))
        return self.name, shapes, kept, tuple(self.extra), forward, tuple(self.parameters)

    def _made(self) -> list[tuple[str, Call | str]]:
        return [*self.attributes, *((name, one) for name, one, _ in self.buffers)]

    def taken(self) -> set[str]:
        """Names of attributes that an instance has."""
        registered = set(re.findall(r"\w+", "\n".join(self.extra)))
        return {*dir(nn.Module), *(name for name, _ in self._made()), *registered}

    def values(self) -> list[tuple[str, Any]]:
        """The literals of the constructor with their names."""
        return [pair for name, one in self._made() if isinstance(one, Call) for pair in one.values(name)]


class Classes:
    """Collects templates and prints each class once."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._taken: set[str] = set()

    def define(self, templates: Sequence[Template]) -> list[Call]:
        """Print the classes of modules that all have the same height; the constructors of the instances."""
        groups: dict[tuple[Any, ...], list[int]] = {}
        for number, template in enumerate(templates):
            groups.setdefault(template.key(), []).append(number)
        calls: list[Call | None] = [None] * len(templates)
        for members in groups.values():
            for number, call in zip(members, self._group([templates[one] for one in members]), strict=True):
                calls[number] = call
        return [call for call in calls if call is not None]

    def _group(self, templates: Sequence[Template]) -> list[Call]:
        first = templates[0]
        name = self._unique(first.name)
        arguments = _Arguments()
        for values in zip(*[one.values() for one in templates], strict=True):
            arguments.add(values[0][0], [value for _, value in values])
        shown = [self._number(first, arguments, column) for column in zip(*map(_read, templates), strict=True)]
        self.texts.append(_class_text(name, first, arguments, shown))
        return [
            Call(name, [("", argument, column[number]) for argument, column in arguments.columns.items()])
            for number in range(len(templates))
        ]

    def _number(self, first: Template, arguments: _Arguments, column: Sequence[tuple[str, Any]]) -> str:
        """How a number is written in the forward of a class: itself, or an attribute if it differs."""
        (label, value), *_ = column
        argument = arguments.add(label, [value for _, value in column], first.taken())
        if not argument:
            return repr(value)
        return f"self.{arguments.attribute(argument, first.taken())}"

    def _unique(self, name: str) -> str:
        name = name if name.isidentifier() else "Block"
        candidate, number = name, 2
        while candidate in self._taken:
            candidate, number = f"{name}{number}", number + 1
        self._taken.add(candidate)
        return candidate


@dataclass(slots=True)
class _Arguments:
    """What differs between the instances of a class: arguments of its constructor, with their values.

    Attributes
    ----------
    columns : dict
        Argument -> its value in each instance.
    of : dict
        Label of a literal in the constructor -> argument.
    attributes : dict
        Argument -> the attribute that keeps it for the forward.
    """

    columns: dict[str, list[Any]] = field(default_factory=dict)
    of: dict[str, str] = field(default_factory=dict)
    attributes: dict[str, str] = field(default_factory=dict)

    def add(self, label: str, column: list[Any], taken: set[str] = frozenset()) -> str:  # type: ignore[assignment]
        """The argument for some literals; empty if they are all the same."""
        texts = [literal(one) for one in column]
        if len(set(texts)) == 1:
            return ""
        same = next((one for one, known in self.columns.items() if [literal(value) for value in known] == texts), "")
        argument = same or _identifier(label, {*self.columns, *taken})
        self.columns.setdefault(argument, column)
        self.of.setdefault(label, argument)
        return argument

    def attribute(self, argument: str, taken: set[str]) -> str:
        """Where the forward finds an argument."""
        if argument not in self.attributes:
            self.attributes[argument] = _identifier(argument, taken | set(self.attributes.values()))
        return self.attributes[argument]


def _read(template: Template) -> list[tuple[str, Any]]:
    """The numbers in a forward, as numbers."""
    return [(label, ast.literal_eval(text)) for label, text in numbers(template.forward)]


def _class_text(name: str, template: Template, differing: _Arguments, forward_numbers: list[str]) -> str:
    def shown(label: str, value: Any) -> str:
        return differing.of.get(label) or literal(value)

    lines = [f"class {name}(nn.Module):"]
    if template.doc:
        lines += [f'    """{template.doc}"""', ""]
    given = "".join(f", {argument}" for argument in differing.columns)
    lines += [wrapped(f"    def __init__(self{given}):"), "        super().__init__()"]
    for attribute, one in template.attributes:
        text = one if isinstance(one, str) else one.text(attribute, shown)
        target = f"self.{attribute}" if attribute.isidentifier() else ""
        lines.append(
            wrapped(
                f"        {target} = {text}" if target else f"        self.add_module({literal(attribute)}, {text})"
            )
        )
    for buffer, one, persistent in template.buffers:
        text = one if isinstance(one, str) else one.text(buffer, shown)
        kept = "" if persistent else ", persistent=False"
        lines.append(wrapped(f"        self.register_buffer({literal(buffer)}, {text}{kept})"))
    lines += [wrapped(f"        {line}") for line in template.extra]
    lines += [f"        self.{attribute} = {argument}" for argument, attribute in differing.attributes.items()]
    if template.forward:
        lines += ["", wrapped(f"    def forward(self, {', '.join(template.parameters)}):")]
        lines += [wrapped(f"        {spaced_slices(line)}") for line in replaced(template.forward, forward_numbers)]
    if template.method:
        lines += ["", *(f"    {line}" for line in template.method)]
    return "\n".join(lines)


def leaf(path: str, module: nn.Module) -> Call:
    """The constructor of a layer of torch.nn.

    Raises
    ------
    EmitError
        If it was altered: hooks, a forward or parametrizations of the user's own.
    """
    hooked = any((module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks))
    if hooked or "forward" in vars(module):
        what = "hooks" if hooked else "a forward of its own"
        raise EmitError(f"the layer {path} has {what}", "Call the layer from a module that does the same.")
    try:
        callee, arguments = layer(module)
    except EmitError as error:
        raise EmitError(f"the layer {path}: {error.message}", error.remedy) from error
    names = _argument_names(type_before_parametrizations(module), arguments)
    call = Call(callee, [(keyword, name, value) for (keyword, value), name in zip(arguments, names, strict=True)])
    if not is_parametrized(module):
        return call
    for tensor, chain in module.parametrizations.items():  # type: ignore[union-attr, operator]
        for one in chain:
            call = _parametrized(path, call, tensor, one)
    return call


def _argument_names(kind: type[nn.Module], arguments: Sequence[tuple[str, Any]]) -> list[str]:
    names = [name for name in inspect.signature(kind.__init__).parameters if name != "self"]
    return [keyword or names[place] for place, (keyword, _) in enumerate(arguments)]


def _parametrized(path: str, call: Call, tensor: str, by: nn.Module) -> Call:
    """A layer whose weight is computed: by weight or spectral norm of torch.nn."""
    arguments: list[tuple[str, str, Any]] = [] if tensor == "weight" else [("name", "name", tensor)]
    kind = type(by).__name__
    if kind == "_WeightNorm":
        arguments += [] if by.dim == 0 else [("dim", "dim", by.dim)]
        return Call(f"{PARAMETRIZED}weight_norm", arguments, [("", call)])
    if kind == "_SpectralNorm":
        arguments += [] if by.n_power_iterations == 1 else [("n_power_iterations", "steps", by.n_power_iterations)]
        arguments += [] if by.eps == 1e-12 else [("eps", "eps", by.eps)]
        arguments += [("dim", "dim", by.dim)]
        return Call(f"{PARAMETRIZED}spectral_norm", arguments, [("", call)])
    raise EmitError(f"the layer {path} computes its {tensor} by {kind}", "Remove the parametrization.")


def zeros(tensor: torch.Tensor) -> Call:
    """A tensor of the same shape and dtype."""
    names = ["size"] if tensor.dim() == 1 else [f"size_{axis}" for axis in range(tensor.dim())]
    sizes: list[tuple[str, str, Any]] = [("", name, size) for name, size in zip(names, tensor.shape, strict=True)]
    dtype = [] if tensor.dtype == torch.float32 else [("dtype", "dtype", tensor.dtype)]
    return Call("torch.zeros", [*(sizes or [("", "shape", ())]), *dtype])


def parameter(tensor: torch.Tensor) -> Call:
    """A parameter of the same shape and dtype."""
    trained = tensor.is_floating_point() or tensor.is_complex()
    return Call(_PARAMETER, [] if trained else [("requires_grad", "requires_grad", False)], [("", zeros(tensor))])


def _joined(prefix: str, name: str) -> str:
    return f"{prefix}_{name}" if prefix and name else prefix or name


def _identifier(label: str, taken: set[str]) -> str:
    name = re.sub(r"\W", "_", label)
    name = f"value_{name}" if name[0].isdigit() else name
    candidate, number = name, 2
    while candidate in taken or candidate == "self":
        candidate, number = f"{name}_{number}", number + 1
    return candidate
