"""Models in the user's own Python: ``path/model.py``, ``path/model.py:Class(width=32)``, ``package.module:attr``.

A file without an attribute means what it calls ``model``, else what its ``__all__`` names, else the only public
`torch.nn.Module` instance, class or factory that is defined in it. A factory is a function without required
parameters whose annotation says that it returns a module. The class of an instance is no second candidate.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
import typing
from collections.abc import Iterable
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import torch

from skipgraph.errors import SourceError
from skipgraph.sources.calls import NamedCall, parse_call
from skipgraph.sources.inputs import as_example
from skipgraph.sources.registry import Example, Kind, Recipe, register
from skipgraph.sources.user_code import running


def _file_recipe(match: re.Match[str], pretrained: bool) -> Recipe:
    path = Path(match["path"])
    _refuse_pretrained(match.string, pretrained)
    module, imported = _import_file(path)
    if match["object"] is not None:
        return _recipe(module, parse_call(match["object"]), match.string)
    return _recipe(module, NamedCall(_choose(module, imported, path)), match.string)


def _module_recipe(match: re.Match[str], pretrained: bool) -> Recipe:
    _refuse_pretrained(match.string, pretrained)
    _search_first(Path.cwd())
    name = match["module"]
    with running(f"importing {name}"):
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise  # the module is there, something that it imports is not
            raise SourceError(
                f"no module named {error.name!r} can be imported",
                "Check the name, and run where the package can be imported; or give the path of a file.",
            ) from None
    return _recipe(module, parse_call(match["object"]), match.string)


def _refuse_pretrained(spec: str, pretrained: bool) -> None:
    if pretrained:
        raise SourceError(f"{spec} has no pretrained weights of its own", "Give the weights by --weights FILE.")


def _search_first(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _import_file(path: Path) -> tuple[ModuleType, set[str]]:
    """Run a file as a module of a name of its own; also the names that it imports from elsewhere."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise SourceError(f"no such file: {path}", "Check the path.") from None
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}", "Check the file's permissions.") from None
    path = path.resolve()
    with running(f"reading {path}"):
        tree = ast.parse(text, str(path))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    imported = {alias.asname or alias.name for node in imports for alias in node.names}

    name = f"_skipgraph_{path.stem}_{hashlib.sha256(bytes(path)).hexdigest()[:12]}"
    found = importlib.util.spec_from_file_location(name, path)
    if found is None or found.loader is None:
        raise SourceError(f"{path} cannot be imported", "Give a Python file.")
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    _search_first(path.parent)
    with running(f"importing {path}"):
        found.loader.exec_module(module)
    return module, imported


def _choose(module: ModuleType, imported: set[str], path: Path) -> str:
    """The name of the object that a file without an attribute means."""
    if callable(getattr(module, "model", None)):
        return "model"
    named = [name for name in getattr(module, "__all__", ()) if hasattr(module, name)]
    candidates = _candidates(module, named)
    if not candidates:
        public = [name for name in vars(module) if not name.startswith("_") and name not in imported]
        candidates = _candidates(module, [name for name in public if _defined_in(module, name)])
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        names = ", ".join(candidates)
        raise SourceError(
            f"{path} defines {len(candidates)} models: {names}",
            f"Name the one that you mean: {path}:{candidates[-1]}; or call it model in the file.",
        )
    functions = [name for name, value in vars(module).items() if isinstance(value, FunctionType)]
    hint = f" If one of its functions makes the model, name it: {path}:{functions[-1]}." if functions else ""
    raise SourceError(
        f"no torch.nn.Module is defined in {path}", f"Define one, or call what you mean model in the file.{hint}"
    )


def _candidates(module: ModuleType, names: Iterable[str]) -> list[str]:
    """Those of ``names`` that are models; an object once, and the class of an instance not at all."""
    first: dict[int, str] = {}
    for name in names:
        if _is_model(getattr(module, name)):
            first.setdefault(id(getattr(module, name)), name)
    found = {name: getattr(module, name) for name in first.values()}
    instances = {type(value) for value in found.values() if isinstance(value, torch.nn.Module)}
    return [name for name, value in found.items() if not isinstance(value, type) or value not in instances]


def _defined_in(module: ModuleType, name: str) -> bool:
    value = getattr(module, name)
    return isinstance(value, torch.nn.Module) or getattr(value, "__module__", None) == module.__name__


def _is_model(value: Any) -> bool:
    if isinstance(value, torch.nn.Module):
        return True
    if isinstance(value, type):
        return issubclass(value, torch.nn.Module)
    return isinstance(value, FunctionType) and _is_factory(value)


def _is_factory(function: FunctionType) -> bool:
    try:
        returned = typing.get_type_hints(function).get("return")
    except Exception:  # an annotation is any expression, and may raise anything
        return False
    needed = [
        parameter
        for parameter in inspect.signature(function).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    return isinstance(returned, type) and issubclass(returned, torch.nn.Module) and not needed


def _recipe(module: ModuleType, call: NamedCall, spec: str) -> Recipe:
    try:
        target = functools.reduce(getattr, call.name.split("."), module)
    except AttributeError:
        names = ", ".join(_candidates(module, [name for name in vars(module) if not name.startswith("_")]))
        raise SourceError(
            f"{spec.partition(':')[0]} has no {call.name!r}", f"It has: {names}." if names else "Check the name."
        ) from None
    example = functools.partial(_example, module)
    if isinstance(target, torch.nn.Module):
        if call.written:
            raise SourceError(f"{call.name} is a module already, and takes no arguments", f"Write {call.name} alone.")
        return Recipe(build=lambda: target, example=example, ready=True)
    if not callable(target) or (isinstance(target, type) and not issubclass(target, torch.nn.Module)):
        raise SourceError(
            f"{call.name} in {spec!r} is a {type(target).__name__}, not a torch.nn.Module",
            "Name a module, a class of modules, or a function that makes one.",
        )
    call.check_fits(target, spec)

    def build() -> torch.nn.Module:
        made = target(*call.args, **call.kwargs)
        if not isinstance(made, torch.nn.Module):
            raise SourceError(
                f"{call.name}() in {spec!r} returned a {type(made).__name__}, not a torch.nn.Module",
                "Name a module, a class of modules, or a function that makes one.",
            )
        return made

    return Recipe(build=build, example=example)


def _example(module: ModuleType, model: torch.nn.Module) -> Example | None:
    """The ``example_inputs`` of the file: a tensor, a tuple, a dict of keyword inputs, or a function that makes it."""
    inputs = getattr(module, "example_inputs", None)
    if callable(inputs) and not isinstance(inputs, torch.Tensor):
        with running("example_inputs()"):
            inputs = inputs()
    return None if inputs is None else as_example(inputs)


register(
    Kind(
        "Python file",
        re.compile(r"(?P<path>.+\.py)(?::(?P<object>.+))?", re.DOTALL),
        _file_recipe,
        "path/model.py, path/model.py:Class(width=32)",
    )
)
register(
    Kind(
        "Python module",
        re.compile(r"(?P<module>[^\W\d]\w*(?:\.[^\W\d]\w*)*):(?P<object>[^\W\d][^:]*)", re.DOTALL),
        _module_recipe,
        "package.module:Name",
        fallback=True,
    )
)
