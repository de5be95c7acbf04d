"""Watch one forward at the level of the user's calls, and write it down as an fx graph that runs again."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from types import MethodWrapperType
from typing import Any

import numpy
import torch
from torch import fx
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import CheckpointFunction

from skipgraph.capture.remade import Rebuild, applying, parts_of, real_tensor
from skipgraph.capture.watched import Expression, Extent, Watch, applied, watched
from skipgraph.errors import CaptureError

_OPERATORS: dict[str, Any] = {
    "__getitem__": operator.getitem, "__setitem__": operator.setitem, "__add__": operator.add,
    "__sub__": operator.sub, "__mul__": operator.mul, "__truediv__": operator.truediv, "__matmul__": operator.matmul,
    "__pow__": operator.pow, "__neg__": operator.neg, "__iadd__": operator.iadd, "__isub__": operator.isub,
    "__imul__": operator.imul, "__itruediv__": operator.itruediv, "__and__": operator.and_, "__or__": operator.or_,
    "__invert__": operator.invert, "__lt__": operator.lt, "__le__": operator.le, "__gt__": operator.gt,
    "__ge__": operator.ge, "__eq__": operator.eq, "__ne__": operator.ne,
}  # fmt: skip

# Containers of torch.nn that add up what they hold: their insides are part of the graph.
_ENTERED = (
    torch.nn.Sequential, torch.nn.ModuleList, torch.nn.ModuleDict, torch.nn.Transformer, torch.nn.TransformerEncoder,
    torch.nn.TransformerDecoder, torch.nn.TransformerEncoderLayer, torch.nn.TransformerDecoderLayer,
    torch.nn.LSTMCell, torch.nn.GRUCell, torch.nn.RNNCell,
)  # fmt: skip


def is_leaf(module: torch.nn.Module) -> bool:
    """Whether a module stays one call: a layer of torch.nn."""
    return type(module).__module__.startswith(("torch.nn.", "torch.ao.nn.")) and not isinstance(module, _ENTERED)


class ScopedGraph(fx.Graph):
    """A graph whose nodes know in which calls of modules they were made.

    ``node.meta["scope"]`` is a tuple of ``(path, number)``, outermost first, the model itself left out: the module, and
    which of its calls it is.
    """

    scope: tuple[tuple[str, int], ...] = ()

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        """Make a node in the present scope."""
        node = super().create_node(*args, **kwargs)
        node.meta["scope"] = self.scope
        return node


class CallTracer(TorchFunctionMode):
    """Writes every call of a forward into ``graph``; tensors are known by identity, and kept alive for that.

    Parameters
    ----------
    model : torch.nn.Module
        The root that ``get_attr`` and ``call_module`` targets refer to.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model
        self.graph = ScopedGraph()
        self._times_called: Counter[str] = Counter()
        self.constants: dict[str, torch.Tensor] = {}
        self._nodes: dict[int, fx.Node] = {}
        self._alive: list[Any] = []
        self.sizes = Watch()
        self._paths = {id(module): path for path, module in model.named_modules()}
        self._named = list(_named_tensors(model))
        self._names = {id(tensor): name for tensor, name in self._named}
        self._windows: dict[tuple[Any, ...], str] | None = None  # the same by memory, made when it is asked for
        self._buffers = [(path, one._buffers, dict(one._buffers)) for path, one in model.named_modules()]
        self._plain_inputs: list[tuple[fx.Node, Any]] = []
        self._first_input: fx.Node | None = None
        self._device: torch.device | None = None
        self._device_node: fx.Node | None = None
        self._grad = torch.is_grad_enabled()
        self._grad_before: fx.Node | None = None
        self.autocast = False
        self._autocast: tuple[Any, ...] | None = None
        self._autocast_node: fx.Node | None = None

    # -- inputs and outputs ------------------------------------------------------------------------------------------

    def add_input(self, name: str, tree: Any) -> None:
        """A placeholder for one argument of the forward, and what is inside it."""
        node = self.graph.placeholder(name)
        self._bind(node, tree)
        if tree is None or isinstance(tree, (bool, int, float, str)):
            self._plain_inputs.append((node, tree))

    def expect_values(self) -> None:
        """Assert the inputs that are no tensors: the forward may have gone its way by them."""
        for node, value in self._plain_inputs:
            same = self.graph.call_function(operator.is_ if value is None else operator.eq, (node, value))
            message = f"captured for {node.name} == {value!r}: capture again with the value you need"
            self.graph.call_function(torch._assert, (same, message))

    def _bind(self, node: fx.Node, tree: Any) -> None:
        if isinstance(tree, torch.Tensor):
            self._know(node, tree)
            if self._first_input is None:
                self._first_input, self._device = node, tree.device
        elif isinstance(tree, Mapping):
            for key, value in tree.items():
                if _has_tensor(value):
                    self._bind(self.graph.call_function(operator.getitem, (node, key)), value)
        elif isinstance(tree, (list, tuple)):
            for place, value in enumerate(tree):
                if _has_tensor(value):
                    self._bind(self.graph.call_function(operator.getitem, (node, place)), value)
        elif is_dataclass(tree) and not isinstance(tree, type):
            for field in fields(tree):
                if _has_tensor(value := getattr(tree, field.name)):
                    self._bind(self.graph.call_function(getattr, (node, field.name)), value)

    def set_output(self, tree: Any) -> None:
        """What the forward returns."""
        self._follow_regions()
        result = self._result(tree)
        self._store_buffers()
        self.sizes.inside = -1
        self.graph.output(result)

    def _store_buffers(self) -> None:
        """Buffers that the forward put another tensor in place of."""
        for path, buffers, before in self._buffers:
            for name, tensor in buffers.items():
                if tensor is not None and tensor is not before[name] and id(tensor) in self._nodes:
                    table = self.graph.get_attr(f"{path}._buffers".lstrip("."))
                    self.graph.call_function(operator.setitem, (table, name, self._node(tensor)))

    def _result(self, tree: Any) -> Any:
        if isinstance(tree, torch.Tensor):
            return self._node(tree)
        if isinstance(tree, torch.device):
            return self._device_argument(tree)
        if isinstance(tree, (list, tuple)):
            values = [self._result(value) for value in tree]
            if hasattr(tree, "_fields"):
                return self.graph.call_function(type(tree), tuple(values))
            return type(tree)(values)
        parts = parts_of(tree)
        if parts is None:
            return tree
        made = {key: self._result(value) for key, value in parts.items()}
        return made if type(tree) is dict else self.graph.call_function(Rebuild.like(tree), (), made)

    # -- calls -------------------------------------------------------------------------------------------------------

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.sizes.inside:
            return func(*args, **kwargs)
        if func is torch._C._set_grad_enabled:
            return func(*args, **kwargs)
        self._follow_regions()
        # Arguments are read before the call: what it writes in place is named by the call itself.
        given = self._argument(args), self._argument(kwargs)
        self.sizes.inside += 1
        try:
            result = func(*args, **kwargs)
        finally:
            self.sizes.inside -= 1
        writes = getattr(func, "__name__", "") in ("__setitem__", "copy_", "backward")
        if _has_tensor(result) or (result is None and writes):
            self._adopt(self._call(func, *given), result)
        elif args and (node := self._nodes.get(id(args[0]))) is not None:
            return self._read(node, _name_of(func), (*args[1:], *kwargs.values()), result)
        return result

    def _read(self, node: fx.Node, name: str, rest: tuple[Any, ...], result: Any) -> Any:
        """What the code reads of a tensor: sizes remember where they come from, values drawn at random are refused."""
        if name in ("shape", "size", "numel", "nelement"):
            sizes = [Extent(node, axis) for axis in range(len(node.meta["shape"]))]
            if isinstance(result, torch.Size):
                return torch.Size([watched(int(n), size, self.sizes) for n, size in zip(result, sizes, strict=True)])
            if name == "size":
                return watched(result, sizes[rest[0]], self.sizes)
            whole: Expression = sizes[0] if sizes else applied(operator.pos, 1)
            for size in sizes[1:]:
                whole = applied(operator.mul, whole, size)
            return watched(result, whole, self.sizes)
        if name in _READS and _is_random(node):
            raise CaptureError(
                f"the forward decides by a number drawn at random ({node.name})",
                "Set the rate of what it leaves out at random to zero, or draw a mask and multiply by it.",
            )
        return result

    def _call(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> fx.Node:
        if type(function) is MethodWrapperType:
            return self.graph.call_function(getattr, (args[0], _name_of(function)))
        name = _name_of(function)
        wrapped = getattr(function, "__module__", None) == "torch._tensor" and hasattr(torch.Tensor, name)
        if wrapped or getattr(torch.Tensor, name, None) is function or hasattr(function, "__objclass__"):
            if name in _OPERATORS:
                return self.graph.call_function(_OPERATORS[name], args, kwargs)
            return self.graph.call_method(name, args, kwargs)
        return self.graph.call_function(function, args, kwargs)

    def _adopt(self, node: fx.Node, result: Any) -> None:
        if isinstance(result, torch.Tensor):
            self._know(node, result)
        else:
            self._bind(node, result)

    def _argument(self, tree: Any) -> Any:
        if isinstance(tree, torch.Tensor):
            return self._node(tree)
        if isinstance(tree, dict):
            return {key: self._argument(value) for key, value in tree.items()}
        if isinstance(tree, (list, tuple)):
            return (
                type(tree)([self._argument(value) for value in tree])
                if type(tree) in (list, tuple)
                else tuple(self._argument(value) for value in tree)
            )
        if isinstance(tree, slice):
            return slice(self._argument(tree.start), self._argument(tree.stop), self._argument(tree.step))
        if isinstance(tree, numpy.ndarray):
            return self._node(real_tensor(tree))
        if isinstance(tree, numpy.generic):  # whose text is no code of a graph
            return tree.item()
        if isinstance(tree, torch.device) or (isinstance(tree, str) and tree == "meta"):
            return self._device_argument(torch.device(tree))
        return tree

    def _device_argument(self, device: torch.device) -> Any:
        """The device of the inputs where the code asked for that, so that the graph moves with them."""
        if device != self._device or self._first_input is None:
            return device
        if self._device_node is None:
            with self.graph.inserting_after(self._last_placeholder()):
                self._device_node = self.graph.call_function(getattr, (self._first_input, "device"))
        return self._device_node

    def _last_placeholder(self) -> fx.Node:
        assert self._first_input is not None
        last = self._first_input
        for node in self.graph.nodes:
            if node.op == "placeholder":
                last = max(last, node)
        return last

    def _node(self, tensor: torch.Tensor) -> fx.Node:
        node = self._nodes.get(id(tensor))
        if node is None:
            name = self._names.get(id(tensor)) or self._alias_of(tensor)
            if name is None:
                name = f"_constant_{len(self.constants)}"
                while hasattr(self.model, name):
                    name += "_"
                self.constants[name] = tensor
            node = self.graph.get_attr(name)
            self._know(node, tensor)
            node.meta["constant"] = self.constants.get(name)
        return node

    def _alias_of(self, tensor: torch.Tensor) -> str | None:
        """The tensor of the model of which ``tensor`` is another object: some constructors are not seen."""
        if self._windows is None:
            self._windows = {_window(other): name for other, name in reversed(self._named)}
        return self._windows.get(_window(tensor))

    def _know(self, node: fx.Node, tensor: torch.Tensor) -> None:
        """``node`` makes ``tensor``."""
        self._nodes[id(tensor)] = node
        self._alive.append(tensor)
        self.sizes.inside += 1
        node.meta["shape"] = tuple(tensor.shape)
        self.sizes.inside -= 1

    # -- regions -----------------------------------------------------------------------------------------------------

    def _follow_regions(self) -> None:
        """Write down where gradients are switched off and autocast on, by what holds when a call is made."""
        grad = torch.is_grad_enabled()
        if grad != self._grad:
            if self._grad_before is None:
                self._grad_before = self.graph.call_function(torch.is_grad_enabled)
                self.graph.call_function(torch._C._set_grad_enabled, (grad,))
            else:
                self.graph.call_function(torch._C._set_grad_enabled, (self._grad_before,))
                self._grad_before = None
            self._grad = grad
        autocast = _autocast_state()
        if autocast != self._autocast:
            if self._autocast_node is not None:
                self.graph.call_function(torch.amp.autocast_mode._exit_autocast, (self._autocast_node,))
            self._autocast_node = autocast and self.graph.call_function(
                torch.amp.autocast_mode._enter_autocast, (*autocast, None)
            )
            self._autocast = autocast
            self.autocast = True

    # -- modules and custom functions --------------------------------------------------------------------------------

    def call_leaf(self, run: Callable[[], Any], node: Callable[[], fx.Node]) -> Any:
        """Run something that stays one call."""
        self._follow_regions()
        made = node()
        self.sizes.inside += 1
        try:
            result = run()
        finally:
            self.sizes.inside -= 1
        self._adopt(made, result)
        return result

    @contextmanager
    def _inside(self, path: str) -> Iterator[None]:
        """One call of a module that is entered."""
        outside = self.graph.scope
        self.graph.scope = (*outside, (path, self._times_called[path]))
        self._times_called[path] += 1
        try:
            yield
        finally:
            self.graph.scope = outside

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Trace what runs in this block."""
        original = torch.nn.Module.__call__
        apply = torch.autograd.Function.__dict__["apply"]
        numpy_tensor = torch.from_numpy

        def module_call(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
            path = self._paths.get(id(module))
            if self.sizes.inside or not path:
                return original(module, *args, **kwargs)
            if not is_leaf(module):
                with self._inside(path):
                    return original(module, *args, **kwargs)
            return self.call_leaf(
                lambda: original(module, *args, **kwargs),
                lambda: self.graph.call_module(path, self._argument(args), self._argument(kwargs)),
            )

        def function_apply(cls: type, *args: Any) -> Any:
            if self.sizes.inside:
                return apply.__func__(cls, *args)
            if cls is CheckpointFunction:  # recomputation is the backward pass's business
                return args[0](*args[2:])
            return self.call_leaf(
                lambda: apply.__func__(cls, *args),
                lambda: self.graph.call_function(applying(cls), self._argument(args)),
            )

        def from_numpy(array: Any) -> torch.Tensor:
            self.sizes.inside += 1
            try:
                result = numpy_tensor(array)
                self._know(self._node(real_tensor(array)), result)
            finally:
                self.sizes.inside -= 1
            return result

        torch.nn.Module.__call__ = module_call  # type: ignore[method-assign]
        torch.from_numpy = from_numpy  # type: ignore[assignment]
        torch.autograd.Function.apply = classmethod(function_apply)  # type: ignore[method-assign, assignment]
        try:
            with self:
                yield
        finally:
            torch.nn.Module.__call__ = original  # type: ignore[method-assign]
            torch.from_numpy = numpy_tensor
            torch.autograd.Function.apply = apply  # type: ignore[method-assign]


def _name_of(function: Any) -> str:
    """The name of a function, a method, or the attribute that a getter gets."""
    owner = function.__self__ if type(function) is MethodWrapperType else function
    return getattr(owner, "__name__", "")


def _autocast_state() -> tuple[str, torch.dtype, bool] | None:
    for device in ("cpu", "cuda"):
        if torch.is_autocast_enabled(device):
            return device, torch.get_autocast_dtype(device), True
    return None


_READS = ("item", "tolist", "numpy", "__bool__", "__int__", "__float__", "__index__")
_DRAWS = ("rand", "bernoulli", "normal", "uniform", "multinomial", "exponential", "random_", "dropout")


def _is_random(node: fx.Node) -> bool:
    """Whether what a node makes was drawn at random, or made of that."""
    seen, pending = set(), [node]
    while pending:
        if (one := pending.pop()) in seen:
            continue
        seen.add(one)
        name = one.target if isinstance(one.target, str) else getattr(one.target, "__name__", "")
        if one.op in ("call_function", "call_method") and any(word in name for word in _DRAWS):
            return True
        pending += one.all_input_nodes
    return False


def _has_tensor(tree: Any) -> bool:
    if isinstance(tree, torch.Tensor):
        return True
    if isinstance(tree, Mapping):
        return any(_has_tensor(value) for value in tree.values())
    if isinstance(tree, (list, tuple)):
        return any(_has_tensor(value) for value in tree)
    return (
        is_dataclass(tree)
        and not isinstance(tree, type)
        and any(_has_tensor(getattr(tree, field.name)) for field in fields(tree))
    )


def _named_tensors(model: torch.nn.Module) -> Iterator[tuple[torch.Tensor, str]]:
    """Every tensor that a module holds, plain attributes included, and its qualified name."""
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        for table in (module.__dict__, module._buffers, module._parameters):
            for name, value in table.items():
                if isinstance(value, torch.Tensor):
                    yield value, prefix + name


def _window(tensor: torch.Tensor) -> tuple[Any, ...]:
    """The memory of a tensor, and what it sees of it."""
    if torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        raise CaptureError(
            "the forward maps a function over tensors (torch.vmap), whose calls see no tensor of the model",
            "Write what is mapped for whole tensors; inspect takes the forward as it is.",
        )
    with torch._C.DisableTorchFunction():
        place = tensor.untyped_storage()._cdata, tensor.storage_offset()
        return *place, tuple(tensor.shape), tensor.stride(), tensor.dtype
