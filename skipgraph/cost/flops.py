"""What each operator of a program costs in multiply-adds."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from skipgraph.capture.program import Operator, Program
from skipgraph.cost.fused import Stretch
from skipgraph.ops import Facts, facts_of
from skipgraph.ops.flop_rules import CALL_RULES


@dataclass(slots=True)
class Flops:
    """Multiply-adds of a program.

    Attributes
    ----------
    of_operator : list of int
        By index of the operator; a call or a fused kernel that is priced as a whole stands at its last operator that
        is no view.
    by_operator : Counter
        By the name that is shown to users.
    own_rules : set of str
        Names that are priced by our own rules, not by fvcore's.
    unpriced : Counter
        How often each operator ran that does arithmetic and has no rule.
    """

    of_operator: list[int]
    by_operator: Counter[str] = field(default_factory=Counter)
    own_rules: set[str] = field(default_factory=set)
    unpriced: Counter[str] = field(default_factory=Counter)

    def book(self, index: int, name: str, flops: int, *, own: bool) -> None:
        """Charge ``flops`` to the operator at ``index``."""
        self.of_operator[index] += flops
        self.by_operator[name] += flops
        if own:
            self.own_rules.add(name)


def price_operators(program: Program, composites: list[Stretch]) -> Flops:
    """Price every operator that ran, those that depend on no input included, as fvcore does.

    Parameters
    ----------
    program : Program
    composites : list of Stretch
        Of the program, from `skipgraph.cost.fused.stretches`.

    Notes
    -----
    The coarsest rule that exists wins: of a composite (attention, recurrent layers), of a call (`CALL_RULES`), of an
    operator.
    """
    operators = program.operators
    flops = Flops([0] * len(operators))
    priced_until = _price_composites(composites, flops)
    facts_by_name: dict[str, Facts] = {}
    next_index = 0
    for index, operator in enumerate(operators):
        if index in priced_until:
            next_index = priced_until[index]
        if index < next_index or operator.is_view:
            continue
        if operator.call.function in CALL_RULES:
            next_index = _price_call(operators, index, flops)
            if next_index > index:
                continue
        facts = facts_by_name.get(operator.name)
        if facts is None:
            facts = facts_by_name[operator.name] = facts_of(operator.name)
        price = facts.flops(operator) if facts.flops is not None else None
        if price is not None:
            flops.book(index, facts.name, price, own=not facts.fvcore)
        elif not facts.free:
            flops.unpriced[facts.name or operator.name] += 1
    return flops


def _price_composites(composites: list[Stretch], flops: Flops) -> dict[int, int]:
    """Price the composites that have a rule: index of the first operator -> index after the last one."""
    priced_until: dict[int, int] = {}
    for stretch in composites:
        facts = facts_of(stretch.composite.name)
        price = facts.flops(stretch.composite) if facts.flops is not None else None
        if price is not None:
            flops.book(stretch.last, facts.name, price, own=not facts.fvcore)
            priced_until[stretch.first] = stretch.last + 1
    return priced_until


def _price_call(operators: list[Operator], first: int, flops: Flops) -> int:
    """Price the call that starts at ``first`` as a whole; the index after its last operator, or 0 without a price."""
    call = operators[first].call
    end = first
    while end < len(operators) and operators[end].call is call:
        end += 1
    working = [operator for operator in operators[first:end] if not operator.is_view]
    name, rule = CALL_RULES[call.function]
    price = rule(working)
    if price is None:
        return 0
    flops.book(working[-1].index, name, price, own=False)
    return end
