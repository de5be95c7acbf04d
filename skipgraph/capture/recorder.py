"""Watch one forward: which torch functions were called, which operators they dispatched to, which memory they used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MethodWrapperType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from skipgraph.capture.evaluation import Evaluation
from skipgraph.capture.ledger import Ledger
from skipgraph.capture.opaque import Opaque, unseen
from skipgraph.capture.program import Call, Composite, ModuleCall, Operator, Program, Value
from skipgraph.capture.schemas import Signature, signature_of
from skipgraph.capture.substitution import walk
from skipgraph.capture.trees import tensors
from skipgraph.ops import Kind, facts_of

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


class Recorder:
    """Collects a `Program` while a forward runs inside `watch`.

    It holds no tensor, so that the tensors of the forward live as long as they do when nobody watches.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.ledger = Ledger(program)
        self.evaluation = Evaluation() if program.method == "meta" else None
        self.opaque: dict[str, Callable[..., Any]] = {}  # module path -> how to evaluate it unseen
        self.failed: ModuleCall | None = None  # the innermost module that raised
        self._paths: dict[int, str] = {}
        self._paused = False
        self.module_call = ModuleCall("", program.model, None)
        self._outside = Call(0, None, self.module_call)
        self.call: Call | None = None
        self._site = ""
        self._scopes: dict[tuple[tuple[str, int], ...], ModuleCall] = {(): self.module_call}
        self.composite: Composite | None = None

    def learn_names(self) -> None:
        """Read the names of modules, parameters and buffers, as they are at this moment."""
        modules = self.program.modules = walk(self.program.model)
        self._paths = {id(module): path for path, module in modules.items()}
        for path, module in modules.items():
            if isinstance(module, Opaque):
                self.opaque[path] = unseen
                self.program.opaque.append((path, module.reason))
            prefix = f"{path}." if path else ""
            for name, tensor in module._buffers.items():
                self.ledger.own(tensor, "buffer", prefix + name)
            for name, parameter in module._parameters.items():
                self.ledger.own(parameter, "parameter", prefix + name)

    # -- tensors -> values -------------------------------------------------------------------------------------------

    def save(self, tensor: torch.Tensor) -> torch.Tensor:
        """Note that autograd keeps ``tensor`` for the backward pass."""
        saved = self.program.saved
        if saved is not None and not self.ledger.owns(tensor):
            value = self.ledger.value_of(tensor)
            if value.origin not in ("parameter", "buffer"):
                saved.append(value)
        return tensor

    def replaced(self, argument: Any, found: list[Value]) -> Any:
        """``argument`` with every tensor in it replaced by its value, which is appended to ``found``."""
        if isinstance(argument, _Tensor):
            value = self.ledger.value_of(argument)
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

    def operator(
        self, overload: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], *, plain: bool
    ) -> Any:
        """Run one operator and record it; ``plain``: no operand is of a class that runs operators its own way."""
        signature = signature_of(overload)
        value_of = self.ledger.value_of
        inputs: list[Value] = []
        given: list[Any] = []
        for argument in args:
            if isinstance(argument, _Tensor):
                value = value_of(argument)
                inputs.append(value)
                given.append(value)
            elif type(argument) in _PLAIN:
                given.append(argument)
            else:
                given.append(self.replaced(argument, inputs))
        named = {key: self.replaced(argument, inputs) for key, argument in kwargs.items()} if kwargs else {}
        evaluation = self.evaluation
        if evaluation is not None and plain and signature.predictable and not self._must_run(signature, inputs):
            result = evaluation.result(overload, args, kwargs, given, named)
        else:
            result = overload(*args, **kwargs)
        written = signature.written_tensors(args, kwargs) if signature.written else []
        if evaluation is not None and self.ledger.on_cpu:
            self._check_numbers(signature, inputs, (result, written))
        # After the run: an operator whose kernel is itself made of operators has recorded those first.
        operators = self.program.operators
        operator = Operator(
            len(operators), signature.name, overload, tuple(given), named, inputs, [], self.call or self._outside,
            False, None, self.composite,
        )  # fmt: skip
        operators.append(operator)
        if written:
            self._book_written(operator, written, result)
        elif isinstance(result, _Tensor):
            self.ledger.output(operator, result)
        elif result is not None:
            for tensor in result if type(result) is tuple else tensors(result):
                if isinstance(tensor, _Tensor):
                    self.ledger.output(operator, tensor)
        return result

    def _must_run(self, signature: Signature, operands: list[Value]) -> bool:
        """Whether a result has numbers: what is written, or all that is read, is on the CPU."""
        on_cpu = self.ledger.on_cpu
        if not on_cpu or not operands:
            return False
        return all(value.storage in on_cpu for value in (operands[:1] if signature.written else operands))

    def _check_numbers(self, signature: Signature, operands: list[Value], results: Any) -> None:
        """Refuse a result on the CPU that is made of tensors without numbers: the forward might read it.

        Kernels for meta tensors let an operand on the CPU keep the numbers that it had, or return what is in memory.
        """
        if all(value.storage in self.ledger.on_cpu for value in operands):
            return
        reads = bool(signature.written) or facts_of(signature.name).kind is not Kind.CREATE  # zeros_like does not
        if reads and not all(tensor.is_meta for tensor in tensors(results)):
            raise RuntimeError(f"{signature.name} makes a tensor on the CPU of one without data")

    def _book_written(self, operator: Operator, written: list[torch.Tensor], result: Any) -> None:
        for tensor in written:
            self.ledger.written(operator, tensor)
        for tensor in tensors(result):
            if not any(tensor is other for other in written):
                self.ledger.output(operator, tensor)

    # -- calls -------------------------------------------------------------------------------------------------------

    def function(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one torch function and record it as a call."""
        if type(function) is MethodWrapperType or self.call is not None:
            return function(*args, **kwargs)
        if _any_autocast():
            self.program.autocast = True
        call = Call(len(self.program.calls), function, self.module_call, site=self._site)
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
            self.composite.outputs = [self.ledger.value_of(tensor) for tensor in tensors(result)]
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
        inputs = [self.ledger.value_of(tensor) for tensor in tensors((args, list(kwargs.values())))]
        call = Call(len(self.program.calls), type(module), self.module_call, site=self._site)
        self.program.calls.append(call)
        return self.one_node(name, call, inputs[:3], run, module=module)

    def _opaque_module(self, path: str, module: torch.nn.Module, args: Any, kwargs: Any) -> Any:
        """A module that is evaluated unseen: one operator of its own."""
        inputs = [self.ledger.value_of(tensor) for tensor in tensors((args, list(kwargs.values())))]
        call = Call(len(self.program.calls), type(module), self.module_call, site=self._site)
        self.program.calls.append(call)
        self._paused = True
        try:
            result = self.opaque[path](module, args, kwargs)
        finally:
            self._paused = False
        self._opaque_operator(call, inputs, list(tensors(result)))
        return result

    def _opaque_operator(self, call: Call, inputs: list[Value], results: list[torch.Tensor]) -> Operator:
        operator = Operator(len(self.program.operators), "opaque", None, tuple(inputs), {}, inputs, [], call)
        self.program.operators.append(operator)
        for tensor in results:
            self.ledger.output(operator, tensor)
        operator.is_view = False
        return operator

    def opaque_rest(self, given: list[torch.Tensor]) -> list[Value]:
        """End the program with one operator that reads ``given``; its result, of which nothing is known."""
        inputs = [self.ledger.value_of(tensor) for tensor in given]
        inputs = [value for value in inputs if value.origin == "operator"] or inputs
        call = Call(len(self.program.calls), type(self.program.model), self.module_call, site=self._site)
        self.program.calls.append(call)
        return self._opaque_operator(call, inputs, [torch.empty(1, device="meta")]).outputs

    def step(self, site: str, scope: tuple[tuple[str, int], ...]) -> None:
        """What runs from here on is ``site``, one node of a captured model that was traced in ``scope``."""
        self._site = site
        self.module_call = self._scope(scope)
        # Operators outside of any torch function (sizes, gradients of constants) still belong to the node.
        self._outside = Call(0, None, self.module_call, site=site)

    def _scope(self, scope: tuple[tuple[str, int], ...]) -> ModuleCall:
        found = self._scopes.get(scope)
        if found is None:
            path = scope[-1][0]
            found = ModuleCall(path, self.program.model.get_submodule(path), self._scope(scope[:-1]))
            self._scopes[scope] = found
        return found

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
    supports_higher_order_operators = True

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and the wrapper that would see to it costs as much as the recording

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if isinstance(func, torch._ops.OpOverload):
            return self.recorder.operator(func, args, kwargs or {}, plain=not types)
        return self.composed(func, args, kwargs or {})

    def composed(self, operator: Any, args: Any, kwargs: Any) -> Any:
        """An operator that takes functions (flexible attention), as the operators that its kernel is made of."""
        kernel = operator.py_kernels.get(torch._C.DispatchKey.CompositeExplicitAutograd)
        if kernel is None:
            raise NotImplementedError(f"{operator} takes functions, which are not looked into")
        with self:
            return kernel(*args, **kwargs)
