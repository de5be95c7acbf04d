"""The statements of a forward: readable names, operators as operators, every tensor let go of after its last use."""

from __future__ import annotations

import operator
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import fx, nn

from skipgraph.capture import Captured
from skipgraph.capture.remade import Rebuild
from skipgraph.emit.literals import AUGMENTED, INFIX, METHODS, function_name, literal, telling
from skipgraph.emit.names import GENERIC, HINTS, TAKEN, cleaned, hint
from skipgraph.emit.regions import Region, is_numbered
from skipgraph.errors import EmitError


class Body:
    """Writes the forward of one region.

    Parameters
    ----------
    captured : Captured
    region : Region
    names : list of str
        Of the inputs.
    inner : callable
        How a region inside is called: the text in front of the arguments.
    printed : callable
        Told of each function of ours that is called, and returns its name.
    """

    def __init__(
        self, captured: Captured, region: Region, names: list[str], printed: Callable[[Any], str], *, root: bool
    ) -> None:
        self._captured = captured
        self._region = region
        self._printed = printed
        self._name: dict[fx.Node, str] = dict(zip(region.inputs, names, strict=True))
        self._inlined: dict[fx.Node, str] = {}
        self._held = set(names)  # arguments, which the caller holds anyway
        self._root = root
        self.lines: list[str] = []
        self._order: dict[fx.Node, int] = {}
        self._last: dict[fx.Node, int] = {}

    def write(self, result: Any = None) -> list[str]:
        """The statements; ``result`` are the arguments of the graph's output, for the model itself."""
        items = self._region.items
        for place, item in enumerate(items):
            for read in _reads(item):
                self._last[read] = place
        if self._root:
            for read in _nodes(result):
                self._last[read] = len(items)
        for output in self._region.outputs:
            self._last[output] = len(items)
        for place, item in enumerate(items):
            if isinstance(item, Region):
                self._call_region(item, place)
            else:
                self._written_out(item, place)
            self._let_go(item, place, final=place == len(items) - 1)
        if self._root:
            self.lines.append(f"return {self._argument(result)}")
        else:
            self.lines.append("return " + ", ".join(self._name[output] for output in self._region.outputs))
        return self._tidied()

    # -- statements --------------------------------------------------------------------------------------------------

    def _call_region(self, region: Region, place: int) -> None:
        call = f"{self._path(region.path)}({', '.join(self._argument(one) for one in region.inputs)})"
        targets: list[str] = []
        for output in region.outputs:
            targets.append(self._new_name(output, place, region.inputs, hint(region.path), avoid=targets))
        self.lines.append(f"{', '.join(targets)} = {call}")

    def _written_out(self, node: fx.Node, place: int) -> None:
        try:
            self._statement(node, place)
        except EmitError as error:
            scope = node.meta.get("scope", ())
            where = f"in {scope[-1][0]}" if scope else "in the model's own forward"
            raise EmitError(f"{node.name}, {where}: {error.message}", error.remedy) from error

    def _statement(self, node: fx.Node, place: int) -> None:
        if self._may_inline(node, place):
            self._inlined[node] = self._expression(node)
            return
        if node.target in AUGMENTED:
            target = self._name.get(node.args[0])  # type: ignore[arg-type]
            if target is not None:
                self.lines.append(f"{target} {AUGMENTED[node.target]} {self._argument(node.args[1])}")
                self._name[node] = target
                return
        if node.target is operator.setitem:
            item, key, value = node.args
            self.lines.append(f"{self._argument(item)}[{self._key(key)}] = {self._argument(value)}")
            return
        text = self._expression(node)
        if not node.users:
            self.lines.append(text)
            return
        name = self._new_name(node, place, node.all_input_nodes, self._node_hint(node), avoid=[])
        self.lines.append(f"{name} = {text}")

    def _may_inline(self, node: fx.Node, place: int) -> bool:
        """Sizes and the like, and views, that one statement of this forward reads, which keeps no tensor longer."""
        if len(node.users) != 1 or "shape" in node.meta:
            return False
        user = next(iter(node.users))
        items = self._region.items
        follows = items.index(user) if user in items else -1
        if follows < 0 or user.target in AUGMENTED or node.target is operator.setitem or _acts(node):
            return False
        reads = self._written(node)
        if any(self._last.get(read, 0) < follows and not _is_number(read) for read in reads):
            return False
        for read in reads:
            self._last[read] = max(self._last.get(read, 0), follows)
        return True

    def _written(self, node: fx.Node) -> set[fx.Node]:
        """The results whose names stand in the text of a call, those of inlined calls included."""
        return {
            name
            for read in node.all_input_nodes
            for name in (self._written(read) if read in self._inlined else {read})
            if name.op != "get_attr"
        }

    def _let_go(self, item: fx.Node | Region, place: int, *, final: bool) -> None:
        """Delete what is not needed any more and would outlive the next allocation."""
        if final:
            return
        live = {self._name[node] for node, last in self._last.items() if last > place and node in self._name}
        dead = [
            name
            for node, name in self._name.items()
            if self._last.get(node, -1) <= place
            and name not in live
            and name not in self._held
            and not _is_number(node)
        ]
        for name in dict.fromkeys(dead):
            self.lines.append(f"del {name}")
        self._name = {node: name for node, name in self._name.items() if name not in dead}

    def _tidied(self) -> list[str]:
        """Deletions put together; those that nothing follows but another binding of the name, or the end, left out."""
        lines: list[str] = []
        for place, line in enumerate(self.lines):
            if line.startswith("del "):
                name = line.removeprefix("del ")
                following = next((one for one in self.lines[place + 1 :] if not one.startswith("del ")), "return")
                if following.startswith("return"):
                    continue
                if lines and lines[-1].startswith("del "):
                    lines[-1] += f", {name}"
                    continue
            lines.append(line)
        return [f"del ({line.removeprefix('del ')})" if _is_long(line) else line for line in lines]

    # -- names -------------------------------------------------------------------------------------------------------

    def _new_name(self, node: fx.Node, place: int, reads: Iterable[fx.Node], hint: str, avoid: list[str]) -> str:
        """The name of a result: that of an operand which dies here, or a short one, or what it is the result of."""
        live = {self._name[one] for one, last in self._last.items() if last > place and one in self._name}
        dying = [
            self._name[read]
            for read in (reads if "shape" in node.meta else ())
            if read in self._name and "shape" in read.meta
            if self._name[read] not in {*live, *avoid} and not (self._root and self._name[read] in self._held)
        ]
        if dying:
            # An argument last, which its caller holds anyway; in the model's own forward no name that tells of another.
            reused = min(dying, key=lambda one: (one in self._held, self._root and one not in GENERIC))
            self._held.discard(reused)
            self._name[node] = reused
            return reused
        taken = live | set(self._name.values()) | set(avoid)
        short = self._last.get(node, 0) <= place + 1 and "shape" in node.meta
        candidates = [*(GENERIC if short or not hint else ()), hint or "value"]
        name: str | None = next((one for one in candidates if one not in taken), None)
        number = 1
        while name is None or name in taken or name in TAKEN:
            name, number = f"{hint or 'value'}_{number}", number + 1
        self._name[node] = name
        return name

    def _node_hint(self, node: fx.Node) -> str:
        if node.op == "call_module":
            return hint(str(node.target))
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "value")
        return HINTS.get(str(name), cleaned(str(name)))

    # -- expressions -------------------------------------------------------------------------------------------------

    def _expression(self, node: fx.Node) -> str:
        if node.op == "call_module":
            return f"{self._path(str(node.target))}({self._arguments(node.args, node.kwargs)})"
        if node.op == "call_method":
            owner, *rest = node.args
            if node.target in METHODS and len(rest) == 1 and not node.kwargs:
                return f"{self._operand(owner)} {METHODS[str(node.target)]} {self._operand(rest[0])}"
            return f"{self._operand(owner)}.{node.target}({self._arguments(rest, node.kwargs)})"
        target = node.target
        if target is getattr:
            return f"{self._operand(node.args[0])}.{node.args[1]}"
        if target is operator.getitem:
            return f"{self._operand(node.args[0])}[{self._key(node.args[1])}]"
        if target in INFIX and len(node.args) == 2:
            return f"{self._operand(node.args[0])} {INFIX[target]} {self._operand(node.args[1])}"
        if target is operator.neg:
            return f"-{self._operand(node.args[0])}"
        if target is operator.not_:
            return f"not {self._operand(node.args[0])}"
        if isinstance(target, Rebuild):
            return self._rebuilt(target, node)
        if isinstance(target, type) and issubclass(target, tuple):  # a named tuple, whose class belongs to somebody
            return self._argument(tuple(node.args))
        if getattr(target, "__module__", "").startswith("skipgraph."):
            return f"{self._printed(target)}({self._arguments(node.args, node.kwargs)})"
        return f"{function_name(target)}({self._arguments(node.args, telling(target, node.kwargs))})"

    def _rebuilt(self, target: Rebuild, node: fx.Node) -> str:
        """A result that is no plain container: a mapping or a dataclass becomes a dict."""
        if target.rest is not None:
            raise EmitError(
                f"the forward returns a {target.__name__}, whose class belongs to a library",
                "Return tensors, tuples or dicts from the forward.",
            )
        parts = {name: value for name, value in node.kwargs.items() if value is not None or target.kind is OrderedDict}
        return f"OrderedDict({self._argument(parts)})" if target.kind is OrderedDict else self._argument(parts)

    def _arguments(self, args: Iterable[Any], kwargs: dict[str, Any]) -> str:
        texts = [self._argument(one) for one in args]
        return ", ".join([*texts, *(f"{name}={self._argument(value)}" for name, value in kwargs.items())])

    def _argument(self, value: Any) -> str:
        if isinstance(value, fx.Node):
            return self._value(value)
        if isinstance(value, slice) and _nodes(value):
            parts = ", ".join(self._argument(one) for one in (value.start, value.stop, value.step))
            return f"slice({parts})"
        if isinstance(value, (list, tuple)):
            inner = ", ".join(self._argument(one) for one in value)
            if isinstance(value, list):
                return f"[{inner}]"
            return f"({inner},)" if len(value) == 1 else f"({inner})"
        if isinstance(value, dict):
            return "{" + ", ".join(f"{literal(key)}: {self._argument(one)}" for key, one in value.items()) + "}"
        return literal(value)

    def _operand(self, value: Any) -> str:
        """An argument with parentheses where an operator or a dot follows it or stands before it."""
        text = self._argument(value)
        compound = isinstance(value, fx.Node) and value in self._inlined and not re.fullmatch(r"[\w.\[\]\(\)]+", text)
        negative = isinstance(value, (int, float)) and value < 0
        return f"({text})" if compound or negative else text

    def _value(self, node: fx.Node) -> str:
        if node.op == "get_attr":
            return self._path(str(node.target))
        if node in self._inlined:
            return self._inlined[node]
        return self._name[node]

    def _key(self, key: Any) -> str:
        if isinstance(key, tuple) and key:
            return ", ".join(self._key(one) for one in key) + ("," if len(key) == 1 else "")
        if isinstance(key, slice):
            start, stop, step = ("" if one is None else self._argument(one) for one in (key.start, key.stop, key.step))
            return f"{start}:{stop}" + (f":{step}" if step else "")
        return self._argument(key)

    def _path(self, path: str) -> str:
        """A module, parameter or buffer of this forward's module."""
        relative = path.removeprefix(self._region.path + ".") if self._region.path else path
        text = "self"
        module: Any = self._captured.get_submodule(self._region.path)
        for part in relative.split("."):
            if part.isdigit() and is_numbered(module):
                text += f"[{part}]"
            elif type(module) in (nn.ModuleDict, nn.ParameterDict):
                text += f"[{literal(part)}]"
            elif part.isidentifier():
                text += f".{part}"
            else:
                text = f"getattr({text}, {literal(part)})"
            module = getattr(module, "_modules", {}).get(part, getattr(module, part, None))
        return text


def _is_long(line: str) -> bool:
    return line.startswith("del ") and len(line) > 100


def _reads(item: fx.Node | Region) -> list[fx.Node]:
    return item.inputs if isinstance(item, Region) else item.all_input_nodes


def _nodes(tree: Any) -> list[fx.Node]:
    found: list[fx.Node] = []
    fx.map_arg(tree, lambda node: found.append(node) or node)  # type: ignore[func-returns-value]
    return found


def _is_number(node: fx.Node) -> bool:
    """Whether a call makes a size, or what is computed of sizes."""
    return "shape" not in node.meta and (node.target in ("size", "dim", "numel") or node.target in INFIX)


def _acts(node: fx.Node) -> bool:
    """Whether a call does more than compute what it returns."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return "grad_enabled" in name or "autocast" in name or name.endswith("_") or node.target is torch._assert
