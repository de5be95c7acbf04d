"""Forwards in float64, and without dropout."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional as F
from torch.nn.modules.dropout import _DropoutNd
from torch.overrides import TorchFunctionMode

_DOUBLE = {
    torch.float16: torch.float64, torch.bfloat16: torch.float64, torch.float32: torch.float64,
    torch.complex32: torch.complex128, torch.complex64: torch.complex128,
}  # fmt: skip
_CASTS = {
    torch.Tensor.float: torch.Tensor.double, torch.Tensor.half: torch.Tensor.double,
    torch.Tensor.bfloat16: torch.Tensor.double,
}  # fmt: skip


def _place(function: Callable[..., Any], name: str) -> tuple[str, int]:
    return name, list(inspect.signature(function).parameters).index(name)


# Functions that drop at random -> the name of their rate, and its place.
_RATES: dict[Any, tuple[str, int]] = {
    **dict.fromkeys((F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout), ("p", 1)),
    **dict.fromkeys((F.feature_alpha_dropout, torch.dropout, torch.dropout_, torch.alpha_dropout), ("p", 1)),
    **dict.fromkeys((torch.alpha_dropout_, torch.feature_dropout, torch.feature_dropout_), ("p", 1)),
    F.scaled_dot_product_attention: ("dropout_p", 4),
    F.multi_head_attention_forward: _place(F.multi_head_attention_forward, "dropout_p"),
}


class Exactly(TorchFunctionMode):
    """Rates of dropout are zero, and with ``double`` each dtype that the code names is float64, autocast off.

    A model that casts to float32 in between (softmax, positions) would else not run in float64, or not be measured in
    it. Constants of the code that depend on a dtype (the lowest float32, as a mask) stay what they are.
    """

    def __init__(self, *, double: bool) -> None:
        super().__init__()
        self._double = double

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if (rate := _RATES.get(func)) is not None:
            name, place = rate
            if len(args) > place:
                args = (*args[:place], 0.0, *args[place + 1 :])
            else:
                kwargs[name] = 0.0
        if self._double:
            if func is torch.amp.autocast_mode._enter_autocast:
                args = (*args[:2], False, *args[3:])
            elif func is not torch.Tensor.view:  # which reads the bits as another dtype
                args = tuple(_doubled(value) for value in args)
                kwargs = {name: _doubled(value) for name, value in kwargs.items()}
            func = _CASTS.get(func, func)
        return func(*args, **kwargs)


def _doubled(value: Any) -> Any:
    return _DOUBLE.get(value, value) if isinstance(value, torch.dtype) else value


@contextmanager
def exactly(*, double: bool) -> Iterator[None]:
    """The conditions of a run: no dropout, gradients on, and with ``double`` float64 wherever a dtype is open."""
    default = torch.get_default_dtype()
    if double:
        torch.set_default_dtype(torch.float64)
    try:
        with Exactly(double=double), torch.enable_grad():
            yield
    finally:
        torch.set_default_dtype(default)


def double(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in float64, if it holds real or complex numbers."""
    return tensor.to(_DOUBLE.get(tensor.dtype, tensor.dtype))


def make_double(module: torch.nn.Module) -> None:
    """Every parameter, buffer and plain tensor of ``module``, in place."""
    module._apply(double)
    for part in module.modules():
        for name, value in part.__dict__.items():
            if isinstance(value, torch.Tensor):
                part.__dict__[name] = double(value)


@contextmanager
def without_dropout(*roots: torch.nn.Module) -> Iterator[None]:
    """Rates of layers that drop at random are zero in this block."""
    before: list[tuple[torch.nn.Module, str, float]] = []
    for module in (module for root in roots for module in root.modules()):
        name = "p" if isinstance(module, _DropoutNd) else "dropout"
        if isinstance(module, (_DropoutNd, torch.nn.MultiheadAttention, torch.nn.RNNBase)):
            before.append((module, name, getattr(module, name)))
            setattr(module, name, 0.0)
    try:
        yield
    finally:
        for module, name, rate in reversed(before):
            setattr(module, name, rate)
