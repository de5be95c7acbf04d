"""Run a recorded program again on real tensors, call by call, freeing each tensor at its last use.

It shares nothing with the prediction but the recording, which it checks too: the result must be the model's own.
Fused attention and recurrent layers run as the call that was made, everything else operator by operator.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch

from skipgraph.capture.program import Operator, Program, Value

_FUSED = {
    torch.nn.functional.scaled_dot_product_attention,
    torch.nn.functional.multi_head_attention_forward,
    torch.lstm,
    torch.gru,
    torch.rnn_tanh,
    torch.rnn_relu,
}

Tensors = dict[int, torch.Tensor]  # by the index of the value


class Replay:
    """A program made runnable.

    Parameters
    ----------
    program : Program
        Captured on the meta device, or on fake tensors.
    model : torch.nn.Module
        The same model with real parameters and buffers; they are found by name.
    """

    def __init__(self, program: Program, model: torch.nn.Module) -> None:
        self.program = program
        self.leaves = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        self.calls: list[list[Operator]] = []
        for operator in program.operators:
            if self.calls and self.calls[-1][0].call is operator.call:
                self.calls[-1].append(operator)
            else:
                self.calls.append([operator])
        self.last: dict[int, int] = {}  # value -> the last call that reads it
        made: dict[int, int] = {}
        for place, operators in enumerate(self.calls):
            self.last.update((value.index, place) for operator in operators for value in operator.inputs)
            made.update((value.index, place) for operator in operators for value in operator.outputs)
        kept = {value.index for value in (*program.inputs, *program.outputs)}
        self.last.update((index, len(self.calls)) for index in kept)
        self.dead_after: defaultdict[int, list[int]] = defaultdict(list)
        for index, place in {**made, **self.last}.items():
            self.dead_after[place].append(index)

    def __call__(self, *inputs: torch.Tensor) -> list[torch.Tensor]:
        """Run it, and return the tensors of the program's outputs."""
        tensors = {value.index: tensor for value, tensor in zip(self.program.inputs, inputs, strict=True)}
        for place, operators in enumerate(self.calls):
            if operators[0].call.function in _FUSED:
                self._run_call(place, operators, tensors)
            else:
                self._run_operators(operators, tensors)
            for index in self.dead_after[place]:
                tensors.pop(index, None)
        return [tensors[value.index] for value in self.program.outputs]

    def _run_operators(self, operators: list[Operator], tensors: Tensors) -> None:
        # What a call makes for itself is held until it returns, as the C++ function behind it does.
        for operator in operators:
            results = self._results(operator, tensors)
            tensors.update(zip([value.index for value in operator.outputs], results, strict=True))

    def _results(self, operator: Operator, tensors: Tensors) -> list[torch.Tensor]:
        """The tensors of ``operator.outputs``: those written in place first, as they are recorded."""
        if operator.overload is None:
            return [self._real(operator.args[0], tensors)]
        args = self._real(operator.args, tensors)
        overload = operator.overload
        if operator.name == "add" and operator.call.function is torch.nn.functional.linear:
            overload = torch.ops.aten.add_.Tensor  # linear adds its bias in place where nobody watches
        kwargs = {key: self._real(argument, tensors) for key, argument in operator.kwargs.items()}
        if "device" in kwargs:
            kwargs["device"] = torch.device("cpu")
        result = overload(*args, **kwargs)
        given = [*args, *kwargs.values()]
        schema = operator.overload._schema.arguments
        names = [argument.name for argument in schema[: len(args)]] + list(kwargs)
        writes = {argument.name for argument in schema if argument.alias_info and argument.alias_info.is_write}
        written = [
            tensor for name, value in zip(names, given, strict=True) if name in writes for tensor in _tensors(value)
        ]
        return written + [tensor for tensor in _tensors(result) if not any(tensor is other for other in written)]

    def _run_call(self, place: int, operators: list[Operator], tensors: Tensors) -> None:
        call = operators[0].call
        kwargs = {key: self._real(argument, tensors) for key, argument in call.kwargs.items()}
        results = list(_tensors(call.function(*self._real(call.args, tensors), **kwargs)))
        for operator in operators:
            for value in operator.outputs:
                match = next((at for at, tensor in enumerate(results) if tuple(tensor.shape) == value.shape), None)
                if match is not None and self.last.get(value.index, -1) > place:
                    tensors[value.index] = results.pop(match)

    def _real(self, argument: Any, tensors: Tensors) -> Any:
        if isinstance(argument, Value):
            return self._tensor(argument, tensors)
        if isinstance(argument, (list, tuple)):
            return type(argument)(self._real(item, tensors) for item in argument)
        return argument

    def _tensor(self, value: Value, tensors: Tensors) -> torch.Tensor:
        known = tensors.get(value.index)
        if known is not None:
            return known
        if value.origin in ("parameter", "buffer"):
            return self.leaves[value.name].as_strided(value.shape, value.stride, value.offset)
        # A constant that capture saw as a shape alone: zeros are a valid index, mask or scale.
        tensors[value.index] = torch.zeros(value.shape, dtype=value.dtype)
        return tensors[value.index]


def _tensors(tree: Any) -> Iterator[torch.Tensor]:
    if isinstance(tree, torch.Tensor):
        yield tree
    elif isinstance(tree, (list, tuple)):
        for item in tree:
            yield from _tensors(item)
