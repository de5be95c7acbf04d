"""What was done at a site, in words that outlive the graph: for ``plan.json``, for undoing, for another checkpoint."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from skipgraph.passes.channels import Channels


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One law at one call.

    Attributes
    ----------
    law : str
        ``"distribute"``, ``"split"`` or ``"flatten"``; ``"join"`` is another concat that was taken apart with it.
    call : str
        What the call was named.
    reads : tuple of int
        Numbers of the steps that it reads in parts, from 1; 0 is the concat.
    after : Channels
        Where the operands lie in what it makes.
    arguments : tuple of int
        For each tensor that it was called with, in order: which of ``reads`` it is, or -1.
    turn : int
        Its place among the calls of the graph before any edit.
    module : str or None
        Path of the layer that was cut, or that is called as a function of slices of its weight.
    function : callable, str or None
        The function or method that was called, or is for each part.
    weight : str or None
        Path of the parameter whose slices the parts of a function read.
    in_place : bool
        It wrote over what it read.
    size_place : int or None
        Which of its sizes counts the channels.
    site, place : str, int
        Of a concat that was flattened into: its site, and the place of the first operand. Of another concat: its site.
    scope : tuple
        Of another concat: the calls of modules that it was made in.
    """

    law: str
    call: str
    reads: tuple[int, ...]
    after: Channels
    arguments: tuple[int, ...] = ()
    turn: int = 0
    module: str | None = None
    function: Any = None
    weight: str | None = None
    in_place: bool = False
    size_place: int | None = None
    site: str = ""
    place: int = 0
    scope: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class ConcatRecord:
    """A concat that was taken apart.

    ``widths`` are those of its operands along ``axis``, nested concats taken apart; ``scope`` are the calls of modules
    that it was made in.
    """

    id: str
    axis: int
    widths: tuple[int, ...]
    steps: tuple[StepRecord, ...] = ()
    scope: tuple[tuple[str, int], ...] = ()
    rewrite: str = "concat_to_sum"


@dataclass(frozen=True, slots=True)
class SumRecord:
    """A sum that was merged: the paths of its terms' layers and norms, None for identities."""

    id: str
    axis: int
    products: tuple[tuple[str | None, str | None], ...]
    rewrite: str = "sum_to_concat"


Record = ConcatRecord | SumRecord


def to_json(record: Record) -> dict[str, Any]:
    """Plain data for ``plan.json``."""
    data = asdict(record)
    for step in data.get("steps", ()):
        function = step["function"]
        if callable(function):
            step["function"] = f"{_home(function)}:{function.__name__}"
        step["after"] = {"axis": step["after"][0], "widths": list(step["after"][1])}
    return data


def from_json(data: Mapping[str, Any]) -> Record:
    """What `to_json` wrote."""
    if data["rewrite"] == "sum_to_concat":
        products = tuple((layer, norm) for layer, norm in data["products"])
        return SumRecord(data["id"], data["axis"], products)
    steps = tuple(
        StepRecord(
            **{
                **step,
                "reads": tuple(step["reads"]),
                "arguments": tuple(step["arguments"]),
                "after": Channels(step["after"]["axis"], tuple(step["after"]["widths"])),
                "function": _function(step["function"]),
                "scope": tuple((path, number) for path, number in step["scope"]),
            }
        )
        for step in data["steps"]
    )
    scope = tuple((path, number) for path, number in data["scope"])
    return ConcatRecord(data["id"], data["axis"], tuple(data["widths"]), steps, scope)


def _home(function: Any) -> str:
    """The module that a function is found in by its name; built-in ones do not always tell it."""
    homes = (function.__module__, "torch", "torch.nn.functional", "torch._C._nn")
    for home in homes:
        if home and getattr(importlib.import_module(home), function.__name__, None) is function:
            return str(home)
    raise ValueError(f"{function} is found in none of {', '.join(map(str, homes))}")


def _function(name: str | None) -> Any:
    """A function of torch by its name; the name of a method is left as it is."""
    if name is None or ":" not in name:
        return name
    module, function = name.split(":")
    if module.split(".")[0] not in ("torch", "_operator"):
        raise ValueError(f"{name} is no function of torch")
    return getattr(importlib.import_module(module), function)
