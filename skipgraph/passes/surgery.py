"""Layers of a model cut into parts: the same module, parameter and buffer names with a number behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from skipgraph.capture import Captured
from skipgraph.ops.cuts import Cut
from skipgraph.passes.state_map import Piece, StateMap, cut

_HOOKS = (
    "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks",
    "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks", "_state_dict_pre_hooks",
)  # fmt: skip


class Surgery:
    """Cuts layers of ``model``, in place, and remembers where their tensors went.

    A layer becomes a `torch.nn.ModuleList` of its parts, so that the parameter ``conv.weight`` becomes
    ``conv.0.weight``, ``conv.1.weight``, ….

    Attributes
    ----------
    state_map : StateMap
        From the tensors before to those after all cuts so far.
    """

    def __init__(self, model: Captured) -> None:
        self.model = model
        self.state_map = StateMap()
        self.cuts: dict[str, tuple[Cut, tuple[int, ...]]] = {}
        self._paths: dict[int, list[str]] = {}
        for path, module in model.named_modules(remove_duplicate=False):
            self._paths.setdefault(id(module), []).append(path)
        self._owners: dict[int, set[int]] = {}
        for module in model.modules():
            for parameter in module._parameters.values():
                self._owners.setdefault(id(parameter), set()).add(id(module))

    def obstacle(self, path: str) -> str | None:
        """Why a layer cannot be taken apart, in one sentence; None if it can."""
        if path in self.cuts:
            return None
        module = self.model.get_submodule(path)
        if is_parametrized(module):
            return f"the weight of {path} is computed anew in each forward (a parametrization)"
        if hooked(module):
            return f"{path} has hooks, which expect the whole layer"
        return None

    def tied(self, path: str) -> str | None:
        """Which tensor of a layer another layer has too, in one sentence; None if it has all to itself."""
        module = self.model.get_submodule(path)
        for name, parameter in module._parameters.items():
            others = self._owners.get(id(parameter), set()) - {id(module)}
            if parameter is not None and others:
                return f"{path}.{name} is tied to {self._paths[others.pop()][0]}"
        return None

    def cut(self, path: str, cut: Cut, widths: Sequence[int]) -> list[str]:
        """Cut the layer at ``path`` in proportion to ``widths``; the paths of its parts.

        Nothing is done if it was cut so before.
        """
        widths = tuple(widths)
        if path not in self.cuts:
            module = self.model.get_submodule(path)
            parts = nn.ModuleList(_part(module, cut, number, widths) for number in range(len(widths)))
            parts.training = module.training
            for alias in self._paths[id(module)]:
                self.model.set_submodule(alias, parts)
                self._note(alias, module, cut, widths)
                self.model.parted(alias, [f"{alias}.{number}" for number in range(len(widths))])
            self.cuts[path] = cut, widths
        elif self.cuts[path][1] != widths:
            raise ValueError(f"{path} would be cut in two ways")
        return [f"{path}.{number}" for number in range(len(widths))]

    def _note(self, path: str, module: nn.Module, cut: Cut, widths: tuple[int, ...]) -> None:
        pieces = []
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is None:
                continue
            for number in range(1 if name in cut.once else len(widths)):
                new = f"{path}.{number}.{name}"
                pieces.append(_piece(f"{path}.{name}", new, tensor, cut.tensors.get(name), number, widths))
        self.state_map = StateMap((*self.state_map.pieces, *pieces))


def hooked(module: nn.Module) -> bool:
    """Whether a module has hooks."""
    return any(getattr(module, hooks, None) for hooks in _HOOKS)


def stretch(size: int, number: int, widths: Sequence[int]) -> tuple[int, int]:
    """Start and length of part ``number`` of an axis of ``size`` that is cut in proportion to ``widths``."""
    borders = [0, *accumulate(widths)]
    start, stop = (size * border // borders[-1] for border in borders[number : number + 2])
    return start, stop - start


def _piece(old: str, new: str, tensor: torch.Tensor, axis: int | None, number: int, widths: tuple[int, ...]) -> Piece:
    if axis is None:
        return Piece(old, new)
    return Piece(old, new, axis, *stretch(tensor.shape[axis], number, widths))


def _part(module: nn.Module, cut: Cut, number: int, widths: tuple[int, ...]) -> nn.Module:
    """A layer of the same class with its share of the tensors."""
    part: nn.Module = module.__class__.__new__(module.__class__)
    part.__dict__.update(module.__dict__)
    for table in ("_parameters", "_buffers", "_modules"):
        part.__dict__[table] = module.__dict__[table].copy()
    for name in cut.counts:
        part.__dict__[name] = getattr(module, name) * widths[number] // sum(widths)
    for name, parameter in module._parameters.items():
        if parameter is not None:
            data = None if number and name in cut.once else _share(parameter.data, name, cut, number, widths)
            part._parameters[name] = data if data is None else nn.Parameter(data, parameter.requires_grad)
    for name, buffer in module._buffers.items():
        if buffer is not None:
            part._buffers[name] = _share(buffer, name, cut, number, widths)
    return part


def _share(tensor: torch.Tensor, name: str, cut_: Cut, number: int, widths: tuple[int, ...]) -> torch.Tensor:
    return cut(tensor, _piece(name, name, tensor, cut_.tensors.get(name), number, widths))


def uncut(parts: Sequence[nn.Module], cut: Cut, total: Mapping[str, int]) -> nn.Module:
    """The layer that ``parts`` are the parts of; ``total`` are its counts of channels and groups."""
    first = parts[0]
    whole: nn.Module = first.__class__.__new__(first.__class__)
    whole.__dict__.update(first.__dict__)
    for table in ("_parameters", "_buffers", "_modules"):
        whole.__dict__[table] = first.__dict__[table].copy()
    whole.__dict__.update(total)
    for name, parameter in first._parameters.items():
        if parameter is not None and name in cut.tensors:
            joined = torch.cat([part._parameters[name].data for part in parts], cut.tensors[name])  # type: ignore[union-attr]
            whole._parameters[name] = nn.Parameter(joined, parameter.requires_grad)
    for name, buffer in first._buffers.items():
        if buffer is not None and name in cut.tensors:
            whole._buffers[name] = torch.cat([part._buffers[name] for part in parts], cut.tensors[name])  # type: ignore[misc]
    return whole
