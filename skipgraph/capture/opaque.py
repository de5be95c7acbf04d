"""Modules that cannot be looked into: run for real, on random numbers, for the shapes of what they return."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import _disable_current_modes


class Opaque(torch.nn.Module):
    """A module that is opaque by itself, and may be run on tensors of any kind: ``reason`` says why."""

    reason: str


def evaluate(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], fake: FakeTensorMode) -> Any:
    """What ``module`` returns for inputs of these shapes, as fake tensors.

    The data is random: where the shape of a result depends on it, this is one of the shapes it may have.
    """
    with _disable_current_modes(), torch._C.DisableTorchFunction(), torch.no_grad():
        memo: dict[int, Any] = {}
        for tensor in [*module.parameters(), *module.buffers()]:
            memo[id(tensor)] = _real(tensor)
        real = copy.deepcopy(module, memo)
        try:
            result = real(*_map(_real, args), **_map(_real, kwargs))
        except Exception:  # zeros are good indices, and bad masks
            result = real(*_map(_real_ones, args), **_map(_real_ones, kwargs))
        return _map(lambda tensor: fake.from_tensor(tensor, static_shapes=True), result)


def unseen(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What ``module`` returns, of which nothing is recorded."""
    with _disable_current_modes(), torch._C.DisableTorchFunction(), torch.no_grad():
        return module.forward(*args, **kwargs)


def _real_ones(tensor: torch.Tensor) -> torch.Tensor:
    return _real(tensor, whole=1)


def _real(tensor: torch.Tensor, whole: int = 0) -> torch.Tensor:
    """A tensor of random numbers, or full of ``whole`` if its dtype is no floating-point one.

    A mask is full of ones: what it lets through has the largest shape then.
    """
    if not isinstance(tensor, FakeTensor) and tensor.device.type != "meta":
        return tensor
    real = torch.full(tensor.shape, whole or tensor.dtype is torch.bool, dtype=tensor.dtype)
    if real.dtype.is_floating_point:
        real.uniform_(0.0, 1.0)
    return torch.nn.Parameter(real, requires_grad=False) if isinstance(tensor, torch.nn.Parameter) else real


def _map(function: Any, tree: Any) -> Any:
    if isinstance(tree, torch.Tensor):
        return function(tree)
    if isinstance(tree, dict):
        return type(tree)({key: _map(function, value) for key, value in tree.items()})
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*[_map(function, value) for value in tree])
    if isinstance(tree, (list, tuple)):
        return type(tree)([_map(function, value) for value in tree])
    return tree
