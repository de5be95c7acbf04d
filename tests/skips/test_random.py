"""Random graphs: the detector against the definitions read literally, and against itself on equivalent graphs."""

from __future__ import annotations

from dataclasses import replace

import networkx as nx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skipgraph.cost import price
from skipgraph.graph import Counts, SkipGraph
from skipgraph.skips import find_skips
from tests.skips.handmade import Step, handmade
from tests.skips.oracle import Oracle

SETTINGS = settings(
    max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], database=None
)
UNARY = ("convolution", "convolution", "relu", "batch_norm")


@st.composite
def networks(draw: st.DrawFn, most: int = 14) -> list[Step]:
    """Operators over recent results for the most part, so that they form one network rather than a bush."""
    steps = [Step("input"), Step("input", positions=1)]
    for _ in range(draw(st.integers(3, most))):
        op = draw(st.sampled_from((*UNARY, "add", "add", "add", "cat", "dense")))
        number = len(steps)
        recent = st.integers(max(0, number - 5), number - 1)
        if op == "dense":  # all of the latest results, so that lists of operands begin alike
            first = draw(st.integers(2, number)) if number > 2 else 0
            operands = tuple(range(first, number)) or (0,)
            op = "cat"
        else:
            operands = tuple([draw(recent) for _ in range({"add": 2, "cat": draw(st.integers(2, 4))}.get(op, 1))])
        positions = max(steps[operand].positions for operand in operands)
        steps.append(Step(op, operands, positions=positions))
    outputs = {len(steps) - 1} | draw(st.sets(st.integers(2, len(steps) - 1), max_size=1))
    return [replace(step, output=number in outputs) for number, step in enumerate(steps)]


def found_by_detector(graph: SkipGraph, oracle: Oracle) -> dict[tuple[int, str], tuple[str, str]]:
    """The detector's skips in the words of the oracle."""
    number = {name: place for place, name in enumerate(graph)}
    find_skips(graph)
    assert [number[merge.node] for merge in graph.merges] == list(oracle.slots)
    found = {}
    for merge in graph.merges:
        slots = oracle.slots[number[merge.node]]
        assert [number[operand] for operand in merge.operands] == [operand for _, operand in slots]
        for skip in merge.skips:
            assert {merge.node, skip.operand_node} <= {skip.source, *nx.descendants(graph, skip.source)}
            found[number[merge.node], slots[skip.operand][0]] = (skip.span, skip.shortcut)
    return found


@SETTINGS
@given(networks())
def test_agrees_with_the_definitions_read_literally(steps: list[Step]) -> None:
    oracle = Oracle(steps)
    assert found_by_detector(handmade(steps), oracle) == oracle.found


def counts(graph: SkipGraph) -> Counts:
    find_skips(graph)
    return graph.counts


@SETTINGS
@given(networks(), st.randoms(use_true_random=False))
def test_order_of_execution_and_names_do_not_matter(steps: list[Step], random) -> None:
    order: list[int] = []
    ready = list(range(len(steps)))
    while ready:
        able = [n for n in ready if all(operand in order for operand in steps[n].operands)]
        order.append(random.choice(able))
        ready.remove(order[-1])
    place = {old: new for new, old in enumerate(order)}
    reordered = [replace(steps[old], operands=tuple([place[o] for o in steps[old].operands])) for old in order]
    names = [f"node{number}" for number in random.sample(range(len(steps)), len(steps))]
    assert counts(handmade(reordered, names)) == counts(handmade(steps))


@SETTINGS
@given(networks(), st.randoms(use_true_random=False))
def test_order_of_operands_does_not_matter(steps: list[Step], random) -> None:
    swapped = [replace(step, operands=tuple(random.sample(step.operands, len(step.operands)))) for step in steps]
    assert counts(handmade(swapped)) == counts(handmade(steps))


def test_a_skip_may_start_where_the_operands_of_two_concats_begin_alike() -> None:
    """What they share is looked for as one node, which stands for operands and has no name to tell a user."""
    steps = [
        Step("input"), Step("convolution", (0,)), Step("cat", (1, 1, 1)), Step("cat", (1, 1, 0)), Step("relu", (3,)),
        Step("convolution", (2,)), Step("cat", (5, 4), output=True),
    ]  # fmt: skip
    graph = handmade(steps)
    oracle = Oracle(steps)
    assert found_by_detector(graph, oracle) == oracle.found != {}
    (skip,) = [skip for skip in graph.skips if skip.merge == "cat6"]
    assert (skip.source, skip.operand_node) == ("convolution1", "relu4")
    price(graph)
    assert skip.held_steps > 0


def test_what_many_operands_begin_with_may_be_of_any_length() -> None:
    steps = [
        Step("input"), Step("convolution", (0,)), Step("cat", (1,) * 1500), Step("cat", (*(1,) * 1499, 0)),
        Step("relu", (3,)), Step("convolution", (2,)), Step("cat", (5, 4), output=True),
    ]  # fmt: skip
    graph = handmade(steps)
    find_skips(graph)
    assert [skip.source for skip in graph.skips if skip.merge == "cat6"] == ["convolution1"]
