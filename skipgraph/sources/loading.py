"""The one way from a SPEC and its options to a model with inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from skipgraph.errors import BuildError, InputError, SourceError
from skipgraph.sources.inputs import cast, check_fit, parse_inputs
from skipgraph.sources.registry import Example, Recipe, Weights, recipe_for
from skipgraph.sources.torchvision_operators import declare_missing
from skipgraph.sources.user_code import described, running
from skipgraph.sources.weights import load_weights


@dataclass(slots=True)
class Source:
    """A model, and inputs that it takes.

    Attributes
    ----------
    spec : str
        What the user wrote.
    model : torch.nn.Module
        On the meta device if ``on_meta``.
    args, kwargs : tuple, dict
        Positional and keyword inputs.
    weights : str
        ``"random"``, ``"pretrained"`` or ``"file"``.
    on_meta : bool
        Whether the model was built without data.
    fixed_mode : bool
        Whether training or evaluation mode is part of the model, and cannot be changed.
    notes : list of str
        What the user should know of how the model was built.
    """

    spec: str
    model: torch.nn.Module
    args: tuple[object, ...]
    kwargs: dict[str, object]
    weights: Weights
    on_meta: bool
    fixed_mode: bool = False
    notes: list[str] = field(default_factory=list)
    _with_data: Callable[[], Source] | None = None

    def with_data(self) -> Source:
        """The same source with the model built on the CPU, for a forward that reads values."""
        return self._with_data() if self._with_data is not None else self


def load(
    spec: str,
    *,
    inputs: Sequence[str] = (),
    weights: Path | None = None,
    pretrained: bool = False,
    device: str = "meta",
    dtype: torch.dtype | None = None,
    seed: int = 0,
) -> Source:
    """Build the model that ``spec`` names.

    Parameters
    ----------
    spec : str
        A path, a module, or a library's model; see `skipgraph.sources.registry.kinds`.
    inputs : sequence of str
        Example inputs as `skipgraph.sources.inputs.parse_inputs` reads them. Without them the source's own are used.
    weights : Path or None
        A ``.safetensors`` file, or a checkpoint that loads with ``weights_only=True``.
    pretrained : bool
        Load the weights that the library of the model has for it.
    device : str
        Where to build the model. On ``"meta"``, which costs no memory, a constructor that needs values falls back
        to the CPU.
    dtype : torch.dtype or None
        Convert the floating-point parameters and inputs to it.
    seed : int
        Of PyTorch's generator, before the model is built.

    Raises
    ------
    SourceError, InputError, WeightsError
        If what was asked for cannot be read.
    BuildError
        If the model's own code fails.
    CaptureError
        If the model cannot be called with the inputs.
    MissingDependencyError
        If the library of the model is not installed.
    """
    if pretrained and weights is not None:
        raise SourceError("--pretrained and --weights were both given", "Give one of them.")
    declare_missing()
    recipe = recipe_for(spec, pretrained=pretrained)
    example = parse_inputs(inputs, dtype=dtype or torch.float32) if inputs else None

    def assembled(device: str) -> Source:
        if recipe.fitted is not None:
            if weights is not None or dtype is not None:
                raise SourceError(f"{spec} has its own weights and dtypes", "Leave --weights and --dtype out.")
            model, (args, kwargs) = recipe.fitted(example, device != "meta")
            return Source(
                spec, model, args, kwargs, recipe.weights, False, recipe.fixed_mode, list(getattr(model, "notes", ()))
            )
        model, notes = _build(recipe, spec, device, seed)
        if dtype is not None:
            model = model.to(dtype)
        if weights is not None:
            load_weights(model, weights)
        args, kwargs = example or _default_example(recipe, model, spec, dtype)
        check_fit(model, (args, kwargs))
        return Source(
            spec,
            model,
            args,
            kwargs,
            "file" if weights is not None else recipe.weights,
            device == "meta" and not recipe.ready and not notes,  # notes tell of a constructor that needed data
            recipe.fixed_mode,
            notes,
            lambda: assembled("cpu"),
        )

    return assembled(device)


def _build(recipe: Recipe, spec: str, device: str, seed: int) -> tuple[torch.nn.Module, list[str]]:
    torch.manual_seed(seed)
    if recipe.ready:
        with running(f"building {spec}"):
            return recipe.build(), []
    try:
        target = torch.device(device)
    except RuntimeError:
        raise SourceError(f"unknown device {device!r}", "Use meta, cpu or cuda.") from None
    if target.type != "meta":
        with running(f"building {spec}"), target:
            return recipe.build(), []
    try:
        with running(f"building {spec}"), target:
            return recipe.build(), []
    except BuildError as error:
        torch.manual_seed(seed)
        with running(f"building {spec}"):
            model = recipe.build()
        cause = described(error.__cause__) if error.__cause__ is not None else error.message
        return model, [f"the model was built on the CPU, because its constructor reads values: {cause}"]


def _default_example(recipe: Recipe, model: torch.nn.Module, spec: str, dtype: torch.dtype | None) -> Example:
    with running(f"making inputs for {spec}", "Give them yourself: --input 1x3x224x224."):
        example = recipe.example(model)
    if example is None:
        raise InputError(
            f"{spec} does not say what the model takes",
            "Give its inputs, for example --input 1x3x224x224; or define example_inputs in the file.",
        )
    args, kwargs = example
    return (args, kwargs) if dtype is None else (cast(args, dtype), cast(kwargs, dtype))
