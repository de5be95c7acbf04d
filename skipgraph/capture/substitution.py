"""Stand-ins without data for a model's tensors, and the model exactly as it was afterwards."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from skipgraph.capture.fakes import MOST_KNOWN

Substitute = Callable[[torch.Tensor], torch.Tensor]

_CONTAINERS = frozenset({dict, OrderedDict, defaultdict, list, deque, set})
_PLAIN = frozenset({bool, int, float, str, tuple, type(None)})


def to_meta(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of the same shape, strides and dtype on the meta device; itself if it is there already."""
    if tensor.is_meta:
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
    before = _Before(modules)
    # A model in the right mode already is left alone: submodules may have modes of their own (frozen norms).
    changed = [] if training and model.training else [module for module in modules if module.training != training]
    try:
        for module in changed:
            module.training = training
        _substitute_in(modules, before.tensors, substitute)
        yield
    finally:
        for module in changed:  # TorchScript keeps it elsewhere
            module.training = not training
        before.restore()


def walk(model: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """All modules by path, each once, as ``named_modules`` has them; in a fraction of its time."""
    found: dict[str, torch.nn.Module] = {"": model}
    seen = {id(model)}

    def visit(prefix: str, module: torch.nn.Module) -> None:
        for name, child in module._modules.items():
            if child is not None and id(child) not in seen:
                seen.add(id(child))
                path = prefix + name
                found[path] = child
                if child._modules:
                    visit(f"{path}.", child)

    visit("", model)
    return found


class _Before:
    """The attributes of modules, and what the containers among them held.

    Objects that are no modules, such as one that keeps tables of positions, are containers of their attributes.
    """

    def __init__(self, modules: list[torch.nn.Module]) -> None:
        self.tensors: list[tuple[dict[str, Any], str]] = []  # attributes that are tensors: where, by which name
        self._copies: list[tuple[Any, Any]] = []
        self._empty: list[Any] = []
        copies, empty = self._copies, self._empty
        for module in modules:
            attributes = module.__dict__
            copies.append((attributes, attributes.copy()))
            for name, value in attributes.items():
                kind = type(value)
                if kind in _PLAIN:
                    continue
                if kind in _CONTAINERS:
                    if value:
                        copies.append((value, value.copy()))
                    else:
                        empty.append(value)
                elif isinstance(value, torch.Tensor):
                    self.tensors.append((attributes, name))
                elif _is_object(kind):  # type: ignore[arg-type]
                    copies.append((value.__dict__, value.__dict__.copy()))

    def restore(self) -> None:
        """Put all of it back."""
        for container, copy in self._copies:
            container.clear()
            if type(container) in (list, deque):
                container.extend(copy)
            else:
                container.update(copy)
        for container in self._empty:
            if container:
                container.clear()


@cache
def _is_object(kind: type) -> bool:
    """Whether things of a class have attributes of their own, and are no module, class or function."""
    keeps = any("__dict__" in base.__dict__ for base in kind.__mro__[:-1])
    return keeps and not issubclass(kind, (torch.nn.Module, type, FunctionType, ModuleType))


def _substitute_in(
    modules: list[torch.nn.Module], attributes: list[tuple[dict[str, Any], str]], substitute: Substitute
) -> None:
    known: dict[int, torch.Tensor] = {}

    def put(table: dict[str, Any], name: str, tensor: torch.Tensor, *, registered: bool = False) -> None:
        found = known.get(id(tensor))
        if found is None:
            found = known[id(tensor)] = _stand_in(tensor, substitute, registered=registered)
        table[name] = found

    for module in modules:
        parameters: dict[str, Any] = module._parameters
        for name, parameter in parameters.items():
            if parameter is not None:
                put(parameters, name, parameter, registered=True)
        buffers: dict[str, Any] = module._buffers
        for name, buffer in buffers.items():
            if isinstance(buffer, torch.Tensor):
                put(buffers, name, buffer)
    for table, name in attributes:
        put(table, name, table[name])


def _stand_in(tensor: torch.Tensor, substitute: Substitute, *, registered: bool) -> torch.Tensor:
    """A stand-in for a tensor; a parameter for what is registered as one, or is one."""
    is_parameter = registered or isinstance(tensor, torch.nn.Parameter)
    other = substitute(tensor.data if is_parameter and not tensor.is_meta else tensor)
    if other is tensor or not is_parameter or isinstance(other, torch.nn.Parameter):
        return other
    return torch.nn.Parameter(other, tensor.requires_grad)
