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

_ATTENTION = "scaled_dot_product_attention"
_DROPOUT = {"native_dropout", "dropout", "bernoulli"}


@dataclass(frozen=True, slots=True)
class Stretch:
    """Operators ``first`` to ``last`` (indices, both included), which compute ``composite``.

    ``workspace`` is what a CPU's kernel allocates for it besides its results, in bytes; None if it runs in parts there
    as well, so that the intermediate results are real.
    """

    composite: Composite
    first: int
    last: int
    workspace: int | None


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
    return Stretch(composite, first, last, None if rule is None or dropped else rule(composite))


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
    while end < last and operators[end + 1].is_view:
        end += 1
    inputs = [_before(value, start) for value in operands]
    composite = Composite(_ATTENTION, outer.call, inputs, operators[end].outputs)
    yield _stretch(composite, start, end, operators)


def _before(value: Value, start: int) -> Value:
    """The value that ``value`` was a view of when operator ``start`` ran."""
    while value.producer is not None and value.producer.index >= start:
        value = value.producer.inputs[0]
    return value
