"""Stretches of operators that count as one.

Capture sees fused attention and recurrent layers taken apart, because the meta device has no kernel for them. Their
products are one operator's, and where a CPU runs them as one kernel, what capture saw allocated in between is not what
a CPU allocates.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from skipgraph.capture.program import Composite, Operator, Program, Value
from skipgraph.ops import facts_of
from skipgraph.ops.workspace import dense

_ATTENTION = "scaled_dot_product_attention"
_DROPOUT = {"native_dropout", "dropout", "bernoulli"}


@dataclass(frozen=True, slots=True)
class Stretch:
    """Operators ``first`` to ``last`` (indices, both included), which compute ``composite``.

    ``workspace`` is what a CPU's kernel allocates for it besides its results, in bytes; None if it runs in parts there
    as well, so that the intermediate results are real. ``copy`` is the index of an operator that puts the result into
    an order that a CPU's kernel leaves it in anyway.
    """

    composite: Composite
    first: int
    last: int
    workspace: int | None
    copy: int | None = None


def stretches(program: Program) -> list[Stretch]:
    """All composites of a program, and the fused attention inside multi-head attention modules, in order."""
    operators = program.operators
    found = []
    for composite, first, last in _composites(operators):
        found.append(_stretch(composite, first, last, operators))
        if composite.name != _ATTENTION:
            found.extend(_inner_attention(composite, first, last, operators))
    return found


def _composites(operators: list[Operator]) -> Iterator[tuple[Composite, int, int]]:
    composite, first = None, 0
    for index, operator in enumerate(operators):
        if operator.composite is not composite:
            if composite is not None:
                yield composite, first, index - 1
            composite, first = operator.composite, index
    if composite is not None:
        yield composite, first, len(operators) - 1


def _stretch(composite: Composite, first: int, last: int, operators: list[Operator]) -> Stretch:
    rule = facts_of(composite.name).workspace
    # Attention with dropout has no fused kernel on a CPU: what capture saw is what runs.
    dropped = any(operator.name in _DROPOUT for operator in operators[first : last + 1])
    workspace = None if rule is None or dropped else rule(composite)
    attention = workspace is not None and composite.name == _ATTENTION
    return Stretch(composite, first, last, workspace, _needless_copy(composite, last, operators) if attention else None)


def _needless_copy(composite: Composite, last: int, operators: list[Operator]) -> int | None:
    """The copy that brings heads and positions of an attention's result into order, if the query has that order.

    The fused kernel lays its result out as its query, which is mostly a view of (batch, positions, heads, features);
    what capture saw lies in the order of its axes, and has to be copied when the heads are put together again.
    """
    query, result = composite.inputs[0], composite.outputs[0]
    for operator in operators[last + 1 : last + 4]:
        if not operator.inputs or operator.inputs[0].storage is not result.storage:
            return None
        if operator.name == "clone":
            moved = operator.inputs[0]
            if len(moved.shape) != len(query.shape) or sorted(moved.shape) != sorted(result.shape):
                return None
            strides = dict(zip(result.stride, _strides_like(query.stride, result.shape), strict=True))
            return operator.index if dense(moved.shape, tuple(strides.get(at, at) for at in moved.stride)) else None
    return None


def _strides_like(strides: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of a tensor without gaps whose axes lie in memory in the same order as those of ``strides``."""
    found = [0] * len(shape)
    step = 1
    for axis in sorted(range(len(shape)), key=lambda axis: (strides[axis], -axis)):
        found[axis] = step
        step *= shape[axis]
    return tuple(found)


def _inner_attention(outer: Composite, first: int, last: int, operators: list[Operator]) -> Iterator[Stretch]:
    """Fused attention inside a multi-head attention module, which its own kind of softmax tells.

    On the meta device it is ``softmax((q s) (k s)ᵀ + mask) v``: the scaling of q starts it, the product with v ends it.
    """
    softmax = next((index for index in range(first, last) if operators[index].name == "_safe_softmax"), None)
    if softmax is None:
        return
    scaled = [index for index in range(first, softmax) if operators[index].name == "mul"][-2:]
    end = next((index for index in range(softmax, last) if operators[index].name == "bmm"), None)
    if len(scaled) < 2 or end is None:
        return
    start = scaled[0]
    operands = (operators[start].inputs[0], operators[scaled[1]].inputs[0], operators[end].inputs[1])
    while end < last and operators[end + 1].name in ("_unsafe_view", "view"):
        end += 1
    inputs = [_before(value, start) for value in operands]
    composite = Composite(_ATTENTION, outer.call, inputs, operators[end].outputs)
    yield _stretch(composite, start, end, operators)


def _before(value: Value, start: int) -> Value:
    """The value that ``value`` was a view of when operator ``start`` ran."""
    while value.producer is not None and value.producer.index >= start:
        value = value.producer.inputs[0]
    return value
