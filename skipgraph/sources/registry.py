"""Which kinds of SPEC there are, and which of them one is."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from skipgraph.errors import SourceError

Example = tuple[tuple[Any, ...], dict[str, Any]]  # positional and keyword inputs of a forward
Weights = Literal["random", "pretrained", "file"]


def _no_model() -> torch.nn.Module:
    raise NotImplementedError("a model that is made for its inputs")


def _no_example(model: torch.nn.Module) -> Example | None:
    return None


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to make the model that a SPEC names.

    Attributes
    ----------
    build : callable
        Makes the model, on whatever device is the default when it is called. It may be called twice.
    example : callable
        Inputs for the model, or None if it is not known what it takes.
    weights : str
        What the parameters of the built model are: ``"random"``, ``"pretrained"`` or ``"file"``.
    ready : bool
        The model is there already, or its values matter: there is no point in building it on the meta device.
    fixed_mode : bool
        Training or evaluation mode is part of the model, and cannot be changed.
    fitted : callable or None
        In the place of ``build``, for a model that is made for inputs of certain shapes: from the inputs that were
        asked for, or None, and whether data is needed, to the model and its inputs.
    """

    build: Callable[[], torch.nn.Module] = field(default=_no_model)
    example: Callable[[torch.nn.Module], Example | None] = field(default=_no_example)
    weights: Weights = "random"
    ready: bool = False
    fixed_mode: bool = False
    fitted: Callable[[Example | None, bool], tuple[torch.nn.Module, Example]] | None = None


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of SPEC.

    Attributes
    ----------
    name : str
        For messages: ``"timm"``.
    pattern : re.Pattern
        Matches the whole of every SPEC of this kind, and of no other kind.
    recipe : callable
        From the match, and whether the library's own weights were asked for, to a `Recipe`.
    form : str
        How such a SPEC is written, for help and messages; empty for a kind that is only there to be refused.
    fallback : bool
        Asked only when no other kind matches.
    specs : callable, optional
        SPECs of all models that it knows by name, for scans of a whole library.
    library : str
        The module that its models come from, which a process that loads many of them imports once.
    """

    name: str
    pattern: re.Pattern[str]
    recipe: Callable[[re.Match[str], bool], Recipe]
    form: str = ""
    fallback: bool = False
    specs: Callable[[], list[str]] | None = None
    library: str = ""


_KINDS: dict[str, Kind] = {}


def register(kind: Kind) -> None:
    """Add a kind of SPEC.

    Raises
    ------
    ValueError
        If its name is taken.
    """
    if kind.name in _KINDS:
        raise ValueError(f"source kind {kind.name!r} is registered twice")
    _KINDS[kind.name] = kind


def kinds() -> tuple[Kind, ...]:
    """All kinds, fallbacks last."""
    return tuple(sorted(_KINDS.values(), key=lambda kind: kind.fallback))


def recipe_for(spec: str, *, pretrained: bool = False) -> Recipe:
    """Find out what ``spec`` names.

    Raises
    ------
    SourceError
        If no kind of source reads it, or the kind that does finds no model.
    """
    for kind in kinds():
        match = kind.pattern.fullmatch(spec)
        if match is not None:
            return kind.recipe(match, pretrained)
    if Path(spec).is_dir():
        raise SourceError(f"{spec} is a directory", f"Name the file in it: {Path(spec) / 'model.py'}; or hf:{spec}.")
    forms = ", ".join(kind.form for kind in kinds() if kind.form)
    raise SourceError(f"{spec!r} names no model", f"A model is given as one of: {forms}.")
