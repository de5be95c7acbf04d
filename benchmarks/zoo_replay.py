"""The operators of a captured graph, run one by one on real tensors: the graph computes what the model does.

`skipgraph.capture.capture` records without data. Here what it recorded is run with data: every operator on what the
graph says its operands are. What a leaf returned that was not looked into is taken from a run of the original, in which
it is compared what the leaf was given.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from skipgraph.capture import capture
from skipgraph.capture.conditions import undisturbed
from skipgraph.capture.ledger import Ledger
from skipgraph.capture.program import Operator, Program, Storage, Value
from skipgraph.capture.trees import map_tensors, tensors

Inputs = tuple[tuple[Any, ...], dict[str, Any]]
Pairs = list[tuple[torch.Tensor, torch.Tensor]]


class EndsEarlyError(Exception):
    """What follows was not captured."""


def replayed(model: nn.Module, inputs: Inputs) -> tuple[Pairs, str]:
    """Pairs of tensors, of the original and of the graph, that must be equal; and where the graph ended early."""
    with _constants_kept() as constants:
        program = capture(model, *inputs)
    original = _Original(copy.deepcopy(model), program)
    failure: Exception | None = None
    try:
        results = original.run(*_fresh(inputs))
    except Exception as error:  # it may be in a part that was not captured
        failure = error
    replay = _Replay(program, copy.deepcopy(model), list(tensors(_fresh(inputs))), constants, original)
    torch.manual_seed(1)
    try:
        for operator in program.operators:
            replay.run(operator)
    except EndsEarlyError as end:
        return replay.pairs, f"{end}, where the original fails" if failure else str(end)
    if failure:
        raise failure
    made = [replay.tensor(value) for value in program.outputs]
    return [*replay.pairs, *zip(results, made, strict=True)], ""


def _fresh(inputs: Inputs) -> Inputs:
    args, kwargs = map_tensors(torch.clone, inputs)
    return args, kwargs


@contextmanager
def _constants_kept() -> Iterator[dict[Storage, torch.Tensor | str]]:
    """Constants that the capture in this block meets, with their data, or the name under which the model has them."""
    kept: dict[Storage, torch.Tensor | str] = {}
    book = Ledger._leaf

    def keeping(ledger: Ledger, tensor: torch.Tensor, memory: Any, key: Any, origin: Any, name: str) -> Any:
        if origin == "constant" and not memory.values:  # nothing is known of it yet
            kept[memory.storage] = _known(ledger, tensor)
        return book(ledger, tensor, memory, key, origin, name)

    with patch.object(Ledger, "_leaf", keeping):
        yield kept


def _known(ledger: Ledger, tensor: torch.Tensor) -> torch.Tensor | str:
    for path, module in ledger._program.model.named_modules():
        for name, other in module.__dict__.items():
            if other is tensor:
                return f"{path}.{name}".lstrip(".")
    with _disable_current_modes():
        real = getattr(tensor, "constant", None)
        real = tensor if real is None else real
        return real.detach().clone() if real.device.type == "cpu" and type(real) is torch.Tensor else ""


class _Original:
    """A run of the original on real tensors, with what its opaque leaves were given and returned."""

    def __init__(self, model: nn.Module, program: Program) -> None:
        self.model = model
        self.given: dict[str, list[list[torch.Tensor]]] = defaultdict(list)
        self.returned: dict[str, list[list[torch.Tensor]]] = defaultdict(list)
        self.seen = _Seen()
        modules = dict(model.named_modules())
        for path, _ in program.opaque:
            if path in modules:
                self._watch(path, modules[path])

    def _watch(self, path: str, module: nn.Module) -> None:
        def note(module: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
            self.given[path].append(_copies((args, list(kwargs.values()))))
            self.returned[path].append(_copies(result))

        module.register_forward_hook(note, with_kwargs=True)

    def run(self, args: Any, kwargs: Any) -> list[torch.Tensor]:
        torch.manual_seed(1)
        self.seen.note((args, kwargs))
        with undisturbed(), torch.no_grad(), self.seen:
            return list(tensors(self.model(*args, **kwargs)))


def _copies(tree: Any) -> list[torch.Tensor]:
    return [tensor.detach().clone() for tensor in tensors(tree)]


class _Seen(TorchDispatchMode):
    """Remembers every result of a run by a fingerprint."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self._prints: set[Any] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.note(result)
        return result

    def note(self, tree: Any) -> None:
        self._prints.update(_fingerprint(tensor) for tensor in tensors(tree))

    def __contains__(self, tensor: torch.Tensor) -> bool:
        return _fingerprint(tensor) in self._prints


def _fingerprint(tensor: torch.Tensor) -> Any:
    flat = tensor.new_empty(tensor.numel()).copy_(tensor.reshape(-1))
    return tuple(tensor.shape), tensor.dtype, hash(flat.view(torch.uint8).numpy().tobytes())


class _Replay:
    """Real tensors for the values of a program.

    Writes in place and views need no care: the operators that make them do so again.
    """

    def __init__(
        self,
        program: Program,
        model: nn.Module,
        given: list[torch.Tensor],
        constants: dict[Storage, torch.Tensor | str],
        original: _Original,
    ) -> None:
        self._model, self._constants, self._original = model, constants, original
        self._by_value: dict[Value, torch.Tensor] = dict(zip(program.inputs, given, strict=True))
        self._by_storage: dict[Storage, torch.Tensor] = {
            value.storage: tensor for value, tensor in self._by_value.items()
        }
        self._done: set[Any] = set()
        self._calls: dict[str, int] = defaultdict(int)
        self.pairs: Pairs = []

    def run(self, operator: Operator) -> None:
        """One operator; one of a call that counts as one node runs as that call, if its arguments are known."""
        if operator.name.startswith("alias_"):
            self._know(operator.outputs, [self.tensor(operator.args[0])])
        elif operator.overload is None:
            self._leaf(operator)
        elif (whole := operator.composite) is not None and whole.call.args:
            if whole not in self._done:
                self._done.add(whole)
                self._know(whole.outputs, self._result(whole.call.function, whole.call.args, whole.call.kwargs))
        else:
            self._know(operator.outputs, self._result(operator.overload, operator.args, operator.kwargs))

    def _result(self, function: Any, args: Any, kwargs: Any) -> list[torch.Tensor]:
        with torch.no_grad():
            return list(tensors(function(*self._real(args), **self._real(kwargs))))

    def _leaf(self, operator: Operator) -> None:
        path = operator.call.module_call.path
        given = [self.tensor(value) for value in operator.inputs]
        if not self._original.returned.get(path):  # the rest of the forward
            self.pairs += [(tensor, tensor) for tensor in given if tensor in self._original.seen]
            unseen = sum(tensor not in self._original.seen for tensor in given)
            if unseen:
                raise RuntimeError(f"{unseen} of {len(given)} tensors before the end are none of the original's")
            raise EndsEarlyError(f"before {operator.call.function.__name__}'s end")
        number = self._calls[path]
        self._calls[path] += 1
        self.pairs += zip(self._original.given[path][number], given, strict=True)
        self._know(operator.outputs, self._original.returned[path][number])
        if any(tuple(self.tensor(one).shape) != tuple(one.shape) for one in operator.outputs):
            raise EndsEarlyError(f"at {path}, of which the data decides the shape")

    def _know(self, values: list[Value], made: list[torch.Tensor]) -> None:
        for value, tensor in zip(values, made, strict=False):
            self._by_value[value] = tensor
            self._by_storage.setdefault(value.storage, tensor)

    def _real(self, argument: Any) -> Any:
        if isinstance(argument, Value):
            return self.tensor(argument)
        if isinstance(argument, torch.device):
            return torch.device("cpu")
        if isinstance(argument, dict):
            return {key: self._real(value) for key, value in argument.items()}
        if isinstance(argument, (list, tuple)):
            return [self._real(value) for value in argument]
        return argument

    def tensor(self, value: Value) -> torch.Tensor:
        """The tensor of a value: made by an operator, of the model, or another window into the memory of one."""
        found = self._by_value.get(value)
        if found is None:
            base = self._by_storage.get(value.storage)
            if base is None:
                base = self._by_storage[value.storage] = self._leaf_tensor(value)
            found = base
            if (base.shape, base.stride(), base.storage_offset()) != (value.shape, value.stride, value.offset):
                found = torch.as_strided(base, value.shape, value.stride, value.offset)
            self._by_value[value] = found
        return found

    def _leaf_tensor(self, value: Value) -> torch.Tensor:
        if value.origin in ("parameter", "buffer"):
            return _of_model(self._model, value.name)
        kept = self._constants.get(value.storage, "")
        if isinstance(kept, torch.Tensor):
            return kept
        if not kept:
            raise RuntimeError(f"a constant of shape {tuple(value.shape)} whose values were not seen")
        return _of_model(self._model, kept)


def _of_model(model: nn.Module, name: str) -> torch.Tensor:
    path, _, attribute = name.rpartition(".")
    tensor: torch.Tensor = getattr(model.get_submodule(path), attribute)
    return tensor.detach()
