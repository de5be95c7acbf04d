"""Inputs as the user writes them: ``1x3x224x224``, ``ids=1x128:int64``, ``batch.mask=1x128:bool``."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from skipgraph.errors import CaptureError, InputError
from skipgraph.sources.registry import Example

_INPUT = re.compile(r"(?:(?P<name>[^\W\d]\w*(?:\.\w+)*)=)?(?P<value>[^:=]+)(?::(?P<dtype>\w+))?")
_SHAPE = re.compile(r"\d+(?:x\d+)*")
_LITERALS = {"True": True, "False": False, "None": None}
_SHORT_DTYPES = {
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "f32": torch.float32,
    "f64": torch.float64,
    "u8": torch.uint8,
    "i8": torch.int8,
    "i16": torch.int16,
    "i32": torch.int32,
    "i64": torch.int64,
}


def parse_dtype(name: str) -> torch.dtype:
    """The dtype that ``name`` means: PyTorch's own names, and short ones such as ``f32`` and ``bf16``.

    Raises
    ------
    InputError
        If there is none of that name.
    """
    dtype = _SHORT_DTYPES.get(name, getattr(torch, name, None))
    if not isinstance(dtype, torch.dtype):
        raise InputError(f"unknown dtype {name!r}", "Use a dtype of PyTorch, such as float32, bf16, int64 or bool.")
    return dtype


def parse_inputs(texts: Sequence[str], *, dtype: torch.dtype = torch.float32) -> Example:
    """Make example inputs, on the meta device, of their descriptions.

    Parameters
    ----------
    texts : sequence of str
        Each ``[NAME=]SHAPE[:DTYPE]``: sizes joined by ``x``, or ``scalar``; a named input may also be ``True``,
        ``False`` or ``None``. Named inputs are keyword inputs; a dotted name reaches into a dict, or, where all
        names at one place are numbers, a list.
    dtype : torch.dtype
        Of the inputs that name none.

    Raises
    ------
    InputError
        If one of them cannot be read.
    """
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for text in texts:
        match = _INPUT.fullmatch(text.strip())
        if match is None:
            raise _unreadable(text)
        name, value = match["name"], match["value"]
        item: Any
        if name is not None and value in _LITERALS and match["dtype"] is None:
            item = _LITERALS[value]
        elif value == "scalar" or _SHAPE.fullmatch(value):
            shape = () if value == "scalar" else tuple(int(size) for size in value.split("x"))
            own = parse_dtype(match["dtype"]) if match["dtype"] is not None else dtype
            item = torch.empty(shape, dtype=own, device="meta")
        else:
            raise _unreadable(text)
        if name is None:
            args.append(item)
        else:
            _put(kwargs, name.split("."), item, text)
    return tuple(args), {name: _lists(value) for name, value in kwargs.items()}


def _unreadable(text: str) -> InputError:
    return InputError(
        f"the input {text!r} cannot be read",
        "Write [NAME=]SHAPE[:DTYPE], for example 1x3x224x224 or ids=1x128:int64.",
    )


def _put(tree: dict[str, Any], path: list[str], item: Any, text: str) -> None:
    for part in path[:-1]:
        tree = tree.setdefault(part, {})
        if not isinstance(tree, dict):
            raise InputError(f"the input {text!r} reaches into another input", "Give each input once.")
    if path[-1] in tree:
        raise InputError(f"the input {text!r} is given twice", "Give each input once.")
    tree[path[-1]] = item


def _lists(tree: Any) -> Any:
    """``tree`` with every dict whose keys are 0, 1, … made a list."""
    if not isinstance(tree, dict):
        return tree
    items = {key: _lists(value) for key, value in tree.items()}
    if set(items) == {str(index) for index in range(len(items))}:
        return [items[str(index)] for index in range(len(items))]
    return items


def as_example(inputs: Any) -> Example:
    """Positional and keyword inputs of what a user calls example inputs.

    A dict is keyword inputs, a tuple or list positional ones, and anything else the only input.
    """
    if isinstance(inputs, dict):
        return (), dict(inputs)
    if isinstance(inputs, tuple | list):
        return tuple(inputs), {}
    return (inputs,), {}


def cast(tree: Any, dtype: torch.dtype) -> Any:
    """``tree`` with every floating-point tensor in it converted to ``dtype``."""
    if isinstance(tree, torch.Tensor):
        return tree.to(dtype) if tree.is_floating_point() else tree
    if isinstance(tree, dict):
        return {key: cast(value, dtype) for key, value in tree.items()}
    if type(tree) in (tuple, list):
        return type(tree)(cast(value, dtype) for value in tree)
    return tree


def check_fit(model: torch.nn.Module, example: Example) -> None:
    """Raise a `CaptureError` if ``model`` cannot be called with these inputs."""
    args, kwargs = example
    try:
        signature = inspect.signature(model.forward)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        given = ", ".join(described(example)) or "nothing"
        taken = ", ".join(str(parameter) for parameter in signature.parameters.values())
        raise CaptureError(
            f"{type(model).__name__}.forward({taken}) cannot be called with the inputs given ({given}): {error}",
            "Give one --input for each that has no default, in order or by name: --input NAME=1x3x224x224.",
        ) from None


def described(example: Example) -> Iterator[str]:
    """``name 1x3x224x224 float32`` of every input, for messages."""
    args, kwargs = example
    for name, value in [*((str(index), value) for index, value in enumerate(args)), *kwargs.items()]:
        if isinstance(value, torch.Tensor):
            yield f"{name} {'x'.join(map(str, value.shape)) or 'scalar'} {str(value.dtype).removeprefix('torch.')}"
        else:
            yield f"{name} {type(value).__name__}"
