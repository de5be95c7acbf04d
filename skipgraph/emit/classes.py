"""The classes of an emitted model: equal ones once, what differs between them an argument of the constructor."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from skipgraph.emit.layout import wrapped
from skipgraph.emit.literals import layer, literal


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
        if self.callee == "nn.Sequential":
            return f"{self.callee}({', '.join(elements)})"
        opening, closing = "{}" if self.keyed else "[]"
        return f"{self.callee}({opening}{', '.join(elements)}{closing})"


@dataclass(slots=True)
class Template:
    """A class of the emitted file, before what differs between its instances is known."""

    name: str
    attributes: list[tuple[str, Call | str]]
    extra: list[str]
    forward: dict[str, list[str]]
    parameters: list[str]
    doc: str

    def key(self) -> tuple[Any, ...]:
        """What must be equal for two instances to be of one class."""
        shapes = tuple((name, one if isinstance(one, str) else one.shape()) for name, one in self.attributes)
        forward = tuple((when, tuple(lines)) for when, lines in self.forward.items())
        return self.name, shapes, tuple(self.extra), forward, tuple(self.parameters)

    def values(self) -> list[tuple[str, Any]]:
        """The literals of the constructor with their names."""
        return [pair for name, one in self.attributes if isinstance(one, Call) for pair in one.values(name)]


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
        for numbers in groups.values():
            for number, call in zip(numbers, self._group([templates[one] for one in numbers]), strict=True):
                calls[number] = call
        return [call for call in calls if call is not None]

    def _group(self, templates: Sequence[Template]) -> list[Call]:
        first = templates[0]
        name = self._unique(first.name)
        columns = list(zip(*[[value for _, value in one.values()] for one in templates], strict=True))
        names = [label for label, _ in first.values()]
        argument_of: dict[str, str] = {}
        column_of: dict[str, tuple[Any, ...]] = {}
        for label, column in zip(names, columns, strict=True):
            texts = tuple(map(literal, column))
            if len(set(texts)) > 1:
                same = next((one for one, known in column_of.items() if known == texts), None)
                argument_of[label] = same or _identifier(label, set(column_of))
                column_of.setdefault(argument_of[label], texts)
        self.texts.append(_class_text(name, first, argument_of, list(column_of)))
        value_of = {
            argument_of[label]: column for label, column in zip(names, columns, strict=True) if label in argument_of
        }
        return [
            Call(name, [("", argument, value_of[argument][number]) for argument in column_of])
            for number in range(len(templates))
        ]

    def _unique(self, name: str) -> str:
        name = name if name.isidentifier() else "Block"
        candidate, number = name, 2
        while candidate in self._taken:
            candidate, number = f"{name}{number}", number + 1
        self._taken.add(candidate)
        return candidate


def _class_text(name: str, template: Template, argument_of: Mapping[str, str], arguments: list[str]) -> str:
    def shown(label: str, value: Any) -> str:
        return argument_of.get(label) or literal(value)

    lines = [f"class {name}(nn.Module):"]
    if template.doc:
        lines += [f'    """{template.doc}"""', ""]
    given = "".join(f", {argument}" for argument in arguments)
    lines += [wrapped(f"    def __init__(self{given}):"), "        super().__init__()"]
    for attribute, one in template.attributes:
        text = one if isinstance(one, str) else one.text(attribute, shown)
        target = f"self.{attribute}" if attribute.isidentifier() else ""
        lines.append(
            wrapped(
                f"        {target} = {text}" if target else f"        self.add_module({literal(attribute)}, {text})"
            )
        )
    lines += [wrapped(f"        {line}") for line in template.extra]
    if template.forward:
        lines += ["", wrapped(f"    def forward(self, {', '.join(template.parameters)}):")]
        lines += _forward(template.forward)
    return "\n".join(lines)


def _forward(forward: Mapping[str, list[str]]) -> list[str]:
    if len(forward) == 1:
        return [wrapped(f"        {line}") for line in next(iter(forward.values()))]
    training, evaluation = forward["training"], forward["evaluation"]
    return [
        "        if self.training:",
        *[wrapped(f"            {line}") for line in training],
        *[wrapped(f"        {line}") for line in evaluation],
    ]


def leaf(module: nn.Module) -> Call:
    """The constructor of a layer of torch.nn."""
    callee, arguments = layer(module)
    names = _argument_names(module, arguments)
    return Call(callee, [(keyword, name, value) for (keyword, value), name in zip(arguments, names, strict=True)])


def _argument_names(module: nn.Module, arguments: Sequence[tuple[str, Any]]) -> list[str]:
    import inspect

    names = [name for name in inspect.signature(type(module).__init__).parameters if name != "self"]
    return [keyword or names[place] for place, (keyword, _) in enumerate(arguments)]


def tensor_text(tensor: torch.Tensor, *, parameter: bool) -> str:
    """An uninitialised tensor of the same shape and dtype."""
    dtype = "" if tensor.dtype == torch.float32 else f", dtype={tensor.dtype}"
    empty = f"torch.zeros({literal(tuple(tensor.shape))}{dtype})"
    if not parameter:
        return empty
    frozen = "" if tensor.is_floating_point() or tensor.is_complex() else ", requires_grad=False"
    return f"nn.Parameter({empty}{frozen})"


def _joined(prefix: str, name: str) -> str:
    return f"{prefix}_{name}" if prefix else name


def _identifier(label: str, taken: set[str]) -> str:
    name = re.sub(r"\W", "_", label)
    name = f"value_{name}" if name[0].isdigit() else name
    candidate, number = name, 2
    while candidate in taken or candidate == "self":
        candidate, number = f"{name}_{number}", number + 1
    return candidate
