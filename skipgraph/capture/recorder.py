"""Watch one forward: which torch functions were called, which operators they dispatched to, which memory they used."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MethodWrapperType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from skipgraph.capture.aliases import Alias, covers, overlap
from skipgraph.capture.program import Call, Composite, ModuleCall, Operator, Origin, Program, Storage, Value
from skipgraph.capture.trees import tensors

_Tensor = torch.Tensor
_any_autocast: Callable[[], bool] = torch._C._is_any_autocast_enabled
_PLAIN = frozenset({int, float, bool, str, type(None)})

# Functions that decompose before they dispatch and are priced as a whole: their arguments are worth keeping.
ARGUMENTS_KEPT: frozenset[Any] = frozenset(
    {
        torch.einsum,
        torch.nn.functional.adaptive_avg_pool1d,
        torch.nn.functional.adaptive_avg_pool2d,
        torch.nn.functional.adaptive_avg_pool3d,
    }
)

# One node each: their kernels differ from device to device, and none of their inner sums is a merge of the model.
_COMPOSITE_MODULES: dict[type[torch.nn.Module], str] = {
    torch.nn.LSTM: "lstm",
    torch.nn.GRU: "gru",
    torch.nn.RNN: "rnn",
    torch.nn.MultiheadAttention: "multi_head_attention",
}
_COMPOSITE_FUNCTIONS: dict[Any, tuple[str, int]] = {
    torch.nn.functional.scaled_dot_product_attention: ("scaled_dot_product_attention", 3),
    torch.nn.functional.multi_head_attention_forward: ("multi_head_attention", 3),
    torch.lstm: ("lstm", 1),
    torch.gru: ("gru", 1),
    torch.rnn_tanh: ("rnn", 1),
    torch.rnn_relu: ("rnn", 1),
}


@dataclass(slots=True, eq=False)
class _Memory:
    """What is known of a live storage: its values by geometry, and the writes in place that its aliases must see."""

    storage: Storage
    values: dict[tuple[Any, ...], tuple[Value, int]] = field(default_factory=dict)
    writes: list[Value] = field(default_factory=list)
    reference: Any = None  # keeps the weak reference to the torch storage, and so its callback, alive


@dataclass(slots=True, frozen=True)
class _Signature:
    """What the schema of an operator says, read once."""

    name: str
    written: tuple[tuple[int, str], ...]  # positions and names of the arguments that are written in place

    def written_tensors(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[torch.Tensor]:
        """The tensors of one call that it writes in place."""
        given = [args[place] if place < len(args) else kwargs.get(name) for place, name in self.written]
        return list(tensors(given))


def _signature(overload: torch._ops.OpOverload) -> _Signature:
    schema = overload._schema
    name = schema.name.split("::", 1)[1]
    written = [
        (len(schema.arguments) if argument.kwarg_only else position, argument.name)
        for position, argument in enumerate(schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    if written and name.endswith("_") and not name.endswith("__"):
        name = name[:-1]
    return _Signature(name, tuple(written))


class Recorder:
    """Collects a `Program` while a forward runs inside `watch`.

    It holds no tensor: storages are followed by weak references, so that the moment at which the interpreter lets go
    of one is the moment at which an eager run of the same code would have freed it.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.opaque: dict[str, Callable[..., Any]] = {}  # module path -> how to evaluate it unseen
        self.failed: ModuleCall | None = None  # the innermost module that raised
        self._paths: dict[int, str] = {}
        self._owned: dict[int, tuple[Origin, str]] = {}
        self._memories: dict[int, _Memory] = {}
        self._signatures: dict[torch._ops.OpOverload, _Signature] = {}
        self._owned_values: dict[int, Value] = {}
        self._values = 0
        self._paused = False
        self.module_call = ModuleCall("", program.model, None)
        self._outside = Call(0, None, self.module_call)
        self.call: Call | None = None
        self.composite: Composite | None = None

    def learn_names(self) -> None:
        """Read the names of modules, parameters and buffers, as they are at this moment."""
        model = self.program.model
        self._paths = {id(module): path for path, module in model.named_modules()}
        # Parameters and buffers outlive the forward, so that their identity can be trusted.
        self._owned = {id(tensor): ("buffer", name) for name, tensor in model.named_buffers()}
        self._owned |= {id(tensor): ("parameter", name) for name, tensor in model.named_parameters()}

    # -- tensors -> values -------------------------------------------------------------------------------------------

    def _memory(self, tensor: torch.Tensor, origin: Origin) -> _Memory:
        storage = tensor.untyped_storage()
        key = storage._cdata
        memory = self._memories.get(key)
        if memory is None:
            born = len(self.program.operators) if origin == "operator" else -1
            record = Storage(len(self.program.storages), storage.nbytes(), born, origin)
            self.program.storages.append(record)
            memory = self._memories[key] = _Memory(record)
            memories, operators = self._memories, self.program.operators

            def freed(_: Any) -> None:
                memories.pop(key, None)
                record.died = len(operators)

            memory.reference = weakref.ref(storage, freed)
        return memory

    def value_of(self, tensor: torch.Tensor, origin: Origin = "constant", name: str = "") -> Value:
        """The current version of ``tensor``; a tensor that was never seen becomes a leaf of ``origin``."""
        owned = self._owned_values.get(id(tensor))
        if owned is not None:
            return owned
        memory = self._memories.get(tensor.untyped_storage()._cdata)
        if memory is None:
            origin, name = self._owned.get(id(tensor), (origin, name))
            memory = self._memory(tensor, origin)
        key = (tensor.storage_offset(), tensor.shape, tensor.stride())
        known = memory.values.get(key)
        if known is None:
            # A leaf seen first through this window, or a view that was made where nobody watched.
            base = next(iter(memory.values.values()), None)
            value = self._new_value(tensor, memory, base[0].producer if base else None)
            value.origin = base[0].origin if base else origin
            value.name = name or (base[0].name if base else "")
            known = memory.values[key] = (value, 0 if base is None else base[1])
            if origin == "parameter":
                self._owned_values[id(tensor)] = value
        value, seen = known
        if seen < len(memory.writes):
            value = self._refreshed(value, memory, seen)
            memory.values[key] = (value, len(memory.writes))
        return value

    def save(self, tensor: torch.Tensor) -> torch.Tensor:
        """Note that autograd keeps ``tensor`` for the backward pass."""
        saved = self.program.saved
        if saved is not None and id(tensor) not in self._owned:
            value = self.value_of(tensor)
            if value.origin not in ("parameter", "buffer"):
                saved.append(value)
        return tensor

    def _new_value(self, tensor: torch.Tensor, memory: _Memory, producer: Operator | None) -> Value:
        self._values += 1
        return Value(
            self._values,
            tensor.shape,
            tensor.stride(),
            tensor.storage_offset(),
            tensor.dtype,
            memory.storage,
            producer,
        )

    def _refreshed(self, value: Value, memory: _Memory, seen: int) -> Value:
        """``value`` after the writes that came since it was ``seen``: one synthetic operator a write that overlaps."""
        for written in memory.writes[seen:]:
            if not overlap(value, written):
                continue
            whole = covers(written, value)
            operator = Operator(
                len(self.program.operators),
                "alias_of_write" if whole else "alias_with_write",
                None,
                (value, written),
                {},
                [written] if whole else [value, written],
                [],
                self.call or self._outside,
                is_view=True,
                composite=self.composite,
            )
            self._values += 1
            value = Alias.of(value, self._values, operator)
            operator.outputs.append(value)
            self.program.operators.append(operator)
        return value

    def replaced(self, argument: Any, found: list[Value]) -> Any:
        """``argument`` with every tensor in it replaced by its value, which is appended to ``found``."""
        if isinstance(argument, _Tensor):
            value = self.value_of(argument)
            found.append(value)
            return value
        if type(argument) in _PLAIN:
            return argument
        if isinstance(argument, (list, tuple)):
            return tuple([self.replaced(item, found) for item in argument])
        if isinstance(argument, dict):
            return {key: self.replaced(item, found) for key, item in argument.items()}
        return argument

    # -- operators ---------------------------------------------------------------------------------------------------

    def operator(self, overload: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one operator and record it."""
        signature = self._signatures.get(overload)
        if signature is None:
            signature = self._signatures[overload] = _signature(overload)
        inputs: list[Value] = []
        record_args = []
        for argument in args:
            if isinstance(argument, _Tensor):
                value = self.value_of(argument)
                inputs.append(value)
                record_args.append(value)
            elif type(argument) in _PLAIN:
                record_args.append(argument)
            else:
                record_args.append(self.replaced(argument, inputs))
        record_kwargs = {key: self.replaced(argument, inputs) for key, argument in kwargs.items()} if kwargs else {}
        result = overload(*args, **kwargs)
        # After the run: an operator whose kernel is itself made of operators has recorded those first.
        operator = Operator(
            len(self.program.operators),
            signature.name,
            overload,
            tuple(record_args),
            record_kwargs,
            inputs,
            [],
            self.call or self._outside,
            composite=self.composite,
        )
        self.program.operators.append(operator)
        if signature.written:
            written = signature.written_tensors(args, kwargs)
            self._record_writes(operator, written)
            fresh = [tensor for tensor in tensors(result) if not any(tensor is other for other in written)]
        elif isinstance(result, _Tensor):
            fresh = [result]
        else:
            fresh = list(tensors(result))
        for tensor in fresh:
            self._record_output(operator, tensor)
        return result

    def _record_writes(self, operator: Operator, written: list[torch.Tensor]) -> None:
        for tensor in written:
            before = self.value_of(tensor)
            if operator.written is None:
                operator.written = before
            memory = self._memory(tensor, "operator")
            value = self._new_value(tensor, memory, operator)
            memory.writes.append(value)
            memory.values[(tensor.storage_offset(), tensor.shape, tensor.stride())] = (value, len(memory.writes))
            operator.outputs.append(value)

    def _record_output(self, operator: Operator, tensor: torch.Tensor) -> None:
        memory = self._memories.get(tensor.untyped_storage()._cdata)
        if memory is None:
            memory = self._memory(tensor, "operator")
            memory.storage.born = operator.index
        else:
            operator.is_view = True
        value = self._new_value(tensor, memory, operator)
        memory.values[(value.offset, value.shape, value.stride)] = (value, len(memory.writes))
        operator.outputs.append(value)

    # -- calls -------------------------------------------------------------------------------------------------------

    def function(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one torch function and record it as a call."""
        if type(function) is MethodWrapperType or self.call is not None:
            return function(*args, **kwargs)
        if _any_autocast():
            self.program.autocast = True
        call = Call(len(self.program.calls), function, self.module_call)
        self.program.calls.append(call)
        self.call = call
        try:
            composite = _COMPOSITE_FUNCTIONS.get(function)
            if composite is None and function not in ARGUMENTS_KEPT:
                return function(*args, **kwargs)
            found: list[Value] = []
            call.args = tuple([self.replaced(argument, found) for argument in args])
            call.kwargs = {key: self.replaced(argument, found) for key, argument in kwargs.items()}
            if composite is None or self.composite is not None:
                return function(*args, **kwargs)
            name, count = composite
            return self.one_node(name, call, found[:count], lambda: function(*args, **kwargs))
        finally:
            self.call = None

    def one_node(
        self, name: str, call: Call, inputs: list[Value], run: Callable[[], Any], module: torch.nn.Module | None = None
    ) -> Any:
        """Run a stretch of operators that counts as one node."""
        self.composite = Composite(name, call, inputs, module=module)
        try:
            result = run()
            self.composite.outputs = [self.value_of(tensor) for tensor in tensors(result)]
            return result
        finally:
            self.composite = None

    # -- modules -----------------------------------------------------------------------------------------------------

    def module(self, original: Callable[..., Any], module: torch.nn.Module, args: Any, kwargs: Any) -> Any:
        """Run one module call inside a frame of its own."""
        parent = self.module_call
        path = self._paths.get(id(module), "")
        self.module_call = ModuleCall(path, module, parent)
        try:
            if path in self.opaque:
                return self._opaque_module(path, module, args, kwargs)
            name = _COMPOSITE_MODULES.get(type(module))
            if name is None or self.composite is not None:
                return original(module, *args, **kwargs)
            return self._composite_module(name, module, args, kwargs, lambda: original(module, *args, **kwargs))
        except Exception:
            self.failed = self.failed or self.module_call
            raise
        finally:
            self.module_call = parent

    def _composite_module(
        self, name: str, module: torch.nn.Module, args: Any, kwargs: Any, run: Callable[[], Any]
    ) -> Any:
        inputs = [self.value_of(tensor) for tensor in tensors((args, list(kwargs.values())))]
        call = Call(len(self.program.calls), type(module), self.module_call)
        self.program.calls.append(call)
        return self.one_node(name, call, inputs[:3], run, module=module)

    def _opaque_module(self, path: str, module: torch.nn.Module, args: Any, kwargs: Any) -> Any:
        """A module that is evaluated unseen: one operator of its own."""
        inputs = [self.value_of(tensor) for tensor in tensors((args, list(kwargs.values())))]
        call = Call(len(self.program.calls), type(module), self.module_call)
        self.program.calls.append(call)
        self._paused = True
        try:
            result = self.opaque[path](module, args, kwargs)
        finally:
            self._paused = False
        operator = Operator(len(self.program.operators), "opaque", None, tuple(inputs), {}, inputs, [], call)
        self.program.operators.append(operator)
        for tensor in tensors(result):
            self._record_output(operator, tensor)
        operator.is_view = False
        return result

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Record everything that runs in this block."""
        original = torch.nn.Module.__call__

        def module_call(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
            if self._paused:
                return original(module, *args, **kwargs)
            return self.module(original, module, args, kwargs)

        torch.nn.Module.__call__ = module_call  # type: ignore[method-assign]
        try:
            with _Functions(self), _Operators(self):
                yield
        finally:
            torch.nn.Module.__call__ = original  # type: ignore[method-assign]


class _Functions(TorchFunctionMode):
    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.recorder.function(func, args, kwargs or {})


class _Operators(TorchDispatchMode):
    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.recorder.operator(func, args, kwargs or {})
