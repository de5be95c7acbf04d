"""Stand-ins without data for a model's tensors, and the model exactly as it was afterwards."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from skipgraph.capture.fakes import MOST_KNOWN

Substitute = Callable[[torch.Tensor], torch.Tensor]

_CONTAINERS = frozenset({dict, OrderedDict, list, set})
_NO_TENSORS = _CONTAINERS | {bool, int, float, str, tuple, type(None)}


def to_meta(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of the same shape, strides and dtype on the meta device; itself if it is there already."""
    if tensor.device.type == "meta":
        return tensor
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def fake_substitute(fake: FakeTensorMode, *, constants: bool = True) -> Substitute:
    """Makes fake CPU tensors of ``fake``: they know the device, and small ones keep their values if ``constants``."""

    def to_fake(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.device.type != "meta":
            stand_in = fake.from_tensor(tensor, static_shapes=True)
            if constants and tensor.numel() <= MOST_KNOWN and not isinstance(tensor, torch.nn.Parameter):
                stand_in.constant = tensor.detach().clone()
                fake.fake_tensor_converter.add_constant_storage_mapping(stand_in)
            return stand_in
        with fake:
            return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")

    return to_fake


@contextmanager
def borrowed(model: torch.nn.Module, substitute: Substitute, *, training: bool) -> Iterator[None]:
    """Lend out ``model`` with ``substitute`` in place of each of its tensors.

    Parameters
    ----------
    model : torch.nn.Module
        In the block it is in training mode if ``training`` is set, else in evaluation mode.
    substitute : callable
        Parameters, buffers and tensors that are plain attributes go through it, shared ones once; those that it
        returns as they are stay in place.
    training : bool
        A model that is in training mode already keeps the modes of its submodules (frozen norms).

    Notes
    -----
    Afterwards every module has the attributes, parameters, buffers, hooks and submodules that it had before, whatever
    the forward did to them (cached anchors, counters, layers made on the way).
    """
    modules = list(walk(model).values())
    state = [_snapshot(module) for module in modules]
    known: dict[int, torch.Tensor] = {}
    try:
        # A model in the right mode already is left alone: submodules may have modes of their own (frozen norms).
        if not (training and model.training):
            for module in modules:
                if module.training != training:
                    module.training = training
        for module in modules:
            _substitute_in(module, substitute, known)
        yield
    finally:
        for module, attributes_before, containers in state:
            _restore(module, attributes_before, containers)


def walk(model: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """All modules by path, each once, as ``named_modules`` has them; in a fraction of its time."""
    found: dict[str, torch.nn.Module] = {}
    seen: set[int] = set()

    def visit(path: str, module: torch.nn.Module) -> None:
        if id(module) in seen:
            return
        seen.add(id(module))
        found[path] = module
        for name, child in module._modules.items():
            if child is not None:
                visit(f"{path}.{name}" if path else name, child)

    visit("", model)
    return found


def _snapshot(module: torch.nn.Module) -> tuple[torch.nn.Module, dict[str, Any], list[tuple[Any, Any]]]:
    """Attributes, and the containers among them with copies of what they hold (None for nothing).

    Objects that are no modules, such as one that keeps tables of positions, are containers of their attributes.
    """
    attributes = module.__dict__.copy()
    containers: list[tuple[Any, Any]] = []
    for value in attributes.values():
        kind = type(value)
        if kind in _CONTAINERS:
            containers.append((value, value.copy() if value else None))
        elif kind not in _NO_TENSORS and _is_object(kind):  # type: ignore[arg-type]
            containers.append((value.__dict__, value.__dict__.copy() or None))
    return module, attributes, containers


@cache
def _is_object(kind: type) -> bool:
    """Whether things of a class have attributes of their own, and are no module, tensor, class or function."""
    keeps = any("__dict__" in base.__dict__ for base in kind.__mro__[:-1])
    return keeps and not issubclass(kind, (torch.nn.Module, torch.Tensor, type, FunctionType, ModuleType))


def _restore(module: torch.nn.Module, attributes: dict[str, Any], containers: list[tuple[Any, Any]]) -> None:
    module.__dict__.clear()
    module.__dict__.update(attributes)
    for container, before in containers:
        if before is None:
            if container:
                container.clear()
        elif isinstance(container, list):
            container[:] = before
        else:
            container.clear()
            container.update(before)


def _substitute_in(module: torch.nn.Module, substitute: Substitute, known: dict[int, torch.Tensor]) -> None:
    for name, parameter in module._parameters.items():
        if parameter is not None and id(parameter) not in known:
            other = substitute(parameter.data if parameter.device.type != "meta" else parameter)
            if other is not parameter and not isinstance(other, torch.nn.Parameter):
                other = torch.nn.Parameter(other, requires_grad=parameter.requires_grad)
            known[id(parameter)] = other
        if parameter is not None:
            module._parameters[name] = known[id(parameter)]  # type: ignore[assignment]
    for table in (module._buffers, module.__dict__):
        for name, tensor in table.items():
            if type(tensor) not in _NO_TENSORS and isinstance(tensor, torch.Tensor):
                if id(tensor) not in known:
                    known[id(tensor)] = substitute(tensor)
                table[name] = known[id(tensor)]
