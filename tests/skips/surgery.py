"""The same model with modules put in, exchanged or renamed. Each function returns how many places it changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Replacement = Callable[[nn.Module], nn.Module | None]

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.SiLU, nn.GELU)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm, nn.LayerNorm)
PADDINGS = {nn.Conv1d: nn.ConstantPad1d, nn.Conv2d: nn.ConstantPad2d, nn.Conv3d: nn.ConstantPad3d}
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def replace(model: nn.Module, replacement: Replacement) -> int:
    """Put ``replacement(child)`` in the place of every child for which it is not None."""
    places = 0
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            new = replacement(child)
            if new is not None:
                parent._modules[name] = new
                places += 1
    return places


def wrap_layers(model: nn.Module) -> int:
    """Every convolution, norm, linear layer and activation in a Sequential in a Sequential."""

    def wrapped(child: nn.Module) -> nn.Module | None:
        plain = type(child) in (*CONVOLUTIONS, *ACTIVATIONS, *NORMS, nn.Linear)
        return nn.Sequential(nn.Sequential(child)) if plain else None

    return replace(model, wrapped)


def put_in_dropout(model: nn.Module) -> int:
    """Identity and dropout before every activation, dropout behind it."""

    def wrapped(child: nn.Module) -> nn.Module | None:
        if type(child) not in ACTIVATIONS:
            return None
        return nn.Sequential(nn.Identity(), nn.Dropout(0.1), child, nn.Dropout(0.2))

    return replace(model, wrapped)


def pad_explicitly(model: nn.Module) -> int:
    """A padding layer and a convolution without padding for every convolution with its own."""

    def padded(child: nn.Module) -> nn.Module | None:
        if type(child) not in PADDINGS or isinstance(child.padding, str) or not any(child.padding):
            return None
        margins = [margin for padding in reversed(child.padding) for margin in (padding, padding)]
        child.padding = tuple([0] * len(child.padding))
        return nn.Sequential(PADDINGS[type(child)](tuple(margins), 0.0), child)

    return replace(model, padded)


class WithDeadBranch(nn.Module):
    """A layer, and beside it a residual block whose result nobody reads."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, features: Tensor) -> Tensor:
        result = self.layer(features)
        unread = features + torch.tanh(result).mean()
        torch.cat([features, unread * torch.sigmoid(features)], dim=1)
        return result


def add_dead_branches(model: nn.Module) -> int:
    """A dead branch beside every activation."""
    return replace(model, lambda child: WithDeadBranch(child) if type(child) in ACTIVATIONS else None)


class Conditioned(nn.Module):
    """A norm whose result is shifted by a projection of a vector, which `WithCondition` leaves in ``shared``."""

    def __init__(self, norm: nn.Module, shared: dict[str, Tensor], length: int) -> None:
        super().__init__()
        self.norm = norm
        self.shared = shared
        last = isinstance(norm, nn.LayerNorm)
        self.axis = -1 if last else 1
        width = (
            norm.normalized_shape[-1]
            if last
            else norm.num_channels
            if isinstance(norm, nn.GroupNorm)
            else norm.num_features
        )
        self.projection = nn.Linear(length, width, device="meta")

    def forward(self, features: Tensor) -> Tensor:
        result = self.norm(features)
        shift = self.projection(self.shared["condition"])
        shape = [1] * result.ndim
        shape[0] = shift.shape[0]
        shape[self.axis] = shift.shape[1]
        positions = result.numel() // (result.shape[0] * shift.shape[1])
        return result + shift.view(shape) if positions > 1 else result


class WithCondition(nn.Module):
    """A model with one more input, of one position, added behind every one of its norms."""

    LENGTH = 6

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.shared: dict[str, Tensor] = {}
        self.places = replace(
            model, lambda child: Conditioned(child, self.shared, self.LENGTH) if type(child) in NORMS else None
        )
        self.embed = nn.Sequential(nn.Linear(1, self.LENGTH), nn.SiLU(), nn.Linear(self.LENGTH, self.LENGTH)).to("meta")
        self.model = model

    def forward(self, condition: Tensor, *args: Any, **kwargs: Any) -> Any:
        self.shared["condition"] = self.embed(condition)
        return self.model(*args, **kwargs)


def rename(model: nn.Module) -> int:
    """Other names for all modules that are attributes: misleading ones, and all alike."""
    places = 0
    for module in list(model.modules()):
        if isinstance(module, _CONTAINERS) or type(module).__module__.startswith("torch.nn."):
            continue
        names = {name: f"skip_concat{place}" for place, name in enumerate(module._modules)}
        module._modules = {names[name]: child for name, child in module._modules.items()}
        module.__class__ = _renamed_class(type(module), names)
        places += len(names)
    return places


def _renamed_class(cls: type[nn.Module], names: dict[str, str]) -> type[nn.Module]:
    def get(self: nn.Module, name: str) -> Any:
        return cls.__getattr__(self, names.get(name, name))

    return type("Upsample", (cls,), {"__getattr__": get, "__module__": cls.__module__})
