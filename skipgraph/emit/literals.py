"""Values, functions and layers as Python text."""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.fx.node import _get_qualified_name
from torch.nn.utils.parametrize import type_before_parametrizations

from skipgraph.errors import EmitError

INFIX = {
    operator.add: "+", operator.sub: "-", operator.mul: "*", operator.truediv: "/", operator.floordiv: "//",
    operator.mod: "%", operator.pow: "**", operator.matmul: "@", operator.eq: "==", operator.ne: "!=",
    operator.lt: "<", operator.le: "<=", operator.gt: ">", operator.ge: ">=", operator.and_: "&", operator.or_: "|",
}  # fmt: skip
AUGMENTED = {operator.iadd: "+=", operator.isub: "-=", operator.imul: "*=", operator.itruediv: "/="}
METHODS = {"add": "+", "sub": "-", "mul": "*", "div": "/", "matmul": "@"}
_PRIVATE = "torch._C._nn."
_KEYWORD = inspect.Parameter.POSITIONAL_OR_KEYWORD
_PER_AXIS = {"kernel_size", "stride", "padding", "dilation", "output_padding", "output_size"}
_SKIPPED = {"self", "device", "dtype", "_weight", "_freeze"}


def literal(value: Any) -> str:
    """A plain value as Python text.

    Raises
    ------
    EmitError
        If it is none.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    if isinstance(value, str):
        return '"' + repr(value)[1:-1].replace('"', '\\"').replace("\\'", "'") + '"'
    if isinstance(value, slice):
        return _slice(value)
    if isinstance(value, (torch.Size, tuple)):
        inner = ", ".join(literal(one) for one in value)
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if isinstance(value, list):
        return "[" + ", ".join(literal(one) for one in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{literal(key)}: {literal(one)}" for key, one in value.items()) + "}"
    if isinstance(value, torch.device):
        return f'torch.device("{value}")'
    if value is None or value is Ellipsis or isinstance(value, (bool, int, float, complex)):
        return "..." if value is Ellipsis else repr(value)
    if isinstance(value, (torch.dtype, torch.memory_format, torch.layout)):
        return repr(value)
    raise EmitError(f"{value!r} cannot be written as Python", "Keep such values out of the forward.")


def _slice(value: slice) -> str:
    parts = [literal(value.start), literal(value.stop), literal(value.step)]
    return f"slice({', '.join(parts)})"


def function_name(function: Any) -> str:
    """The name by which a source file calls a function of torch or of Python.

    Raises
    ------
    EmitError
        If it belongs to somebody else.
    """
    name: str = _get_qualified_name(function)
    if name == "torch._C._set_grad_enabled":
        return "torch.set_grad_enabled"
    if name.startswith(_PRIVATE) and hasattr(torch.nn.functional, name.removeprefix(_PRIVATE)):
        return "F." + name.removeprefix(_PRIVATE)
    if name.startswith("torch.nn.functional."):
        return "F." + name.removeprefix("torch.nn.functional.")
    if name.startswith("torch."):
        return name
    if getattr(function, "__module__", "") in ("builtins", "math"):
        return name.removeprefix("builtins.")
    if name.startswith("_operator.") or getattr(function, "__module__", "") == "_operator":
        return f"operator.{function.__name__}"
    raise EmitError(f"{name} is called, which is no function of torch", "Only calls of torch can be written out.")


def telling(function: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments of a call, those left out that say what the function does anyway."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return dict(given)
    return {
        name: value
        for name, value in given.items()
        if name == "training"
        or (not name.startswith("_") and not (name in parameters and _same(value, parameters[name].default)))
    }


def layer(module: nn.Module) -> tuple[str, list[tuple[str, Any]]]:
    """The class of a layer of torch.nn, and the arguments that its constructor was given: ``(name, value)``.

    The name is empty for an argument that is given by position.

    Raises
    ------
    EmitError
        If an argument cannot be read off the layer.
    """
    kind = type_before_parametrizations(module)
    if not kind.__module__.startswith(("torch.nn.", "torch.ao.nn.")):
        raise EmitError(f"a layer of class {kind.__qualname__} is no layer of torch.nn", "It cannot be written out.")
    name = f"nn.{kind.__name__}" if hasattr(nn, kind.__name__) else f"{kind.__module__}.{kind.__name__}"
    found: list[tuple[str, Any]] = []
    required = True
    for parameter in _parameters(kind):
        if parameter.name in _SKIPPED or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        value = _argument(module, parameter)
        if parameter.default is not parameter.empty:
            required = False
        if parameter.default is parameter.empty or not _same(value, parameter.default):
            found.append(("" if required else parameter.name, value))
    return name, found


def _argument(module: nn.Module, parameter: inspect.Parameter) -> Any:
    name = parameter.name
    if name == "bias" and not (getattr(module, "affine", True) and getattr(module, "elementwise_affine", True)):
        return parameter.default  # nothing is affine, with or without
    if name in ("kdim", "vdim") and getattr(module, name) == module.embed_dim:
        return None
    if name == "bias" and not isinstance(getattr(module, "bias", None), bool):
        return getattr(module, "bias", getattr(module, "in_proj_bias", None)) is not None
    if name in ("add_bias_kv",):
        return getattr(module, "bias_k", None) is not None
    if name == "p" and isinstance(module, nn.PairwiseDistance):
        return module.norm
    if hasattr(module, name):
        value = getattr(module, name)
        if not isinstance(value, torch.Tensor):
            return _collapsed(name, value)
    if parameter.default is not parameter.empty:
        return parameter.default
    raise EmitError(
        f"the argument {name} of {type(module).__name__} cannot be read off it", "It cannot be written out."
    )


def _collapsed(name: str, value: Any) -> Any:
    """One number for a tuple of equal ones, where a layer takes both."""
    if name == "normalized_shape" and len(value) == 1:
        return value[0]
    if name in _PER_AXIS and isinstance(value, (tuple, list)) and value and len(set(value)) == 1:
        return value[0]
    return value


def _parameters(kind: type[nn.Module]) -> list[inspect.Parameter]:
    """The parameters of a layer's constructor; recurrent layers have theirs behind ``*args``."""
    found = list(inspect.signature(kind.__init__).parameters.values())
    if not issubclass(kind, nn.RNNBase):
        return found
    base = inspect.signature(nn.RNNBase.__init__).parameters
    own = [base[name] for name in base if name not in ("mode", "device", "dtype")]
    return [*own, *([inspect.Parameter("nonlinearity", _KEYWORD, default="tanh")] if kind is nn.RNN else [])]


def _same(value: Any, default: Any) -> bool:
    return type(value) is type(default) and value == default
