"""When each node of a graph runs, and which block of memory holds its result."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache

import torch

from skipgraph.capture.program import Program
from skipgraph.cost.fused import Stretch
from skipgraph.cost.memory import VIEWS, Memory, recorded, simulated
from skipgraph.graph import NodeAttributes, SkipGraph


@dataclass(slots=True)
class Clock:
    """A graph laid out in time and memory.

    Attributes
    ----------
    order : list
        ``(node, attributes)`` in order of execution.
    tick_of : dict
        Node -> tick of the operator that leaves its result; -1 for inputs.
    block_of : dict
        Node -> block of ``memory`` that its result lies in.
    step_of : dict
        Node -> step, from 1; 0 for inputs.
    memory : Memory
    """

    order: list[tuple[str, NodeAttributes]]
    tick_of: dict[str, int]
    block_of: dict[str, int]
    step_of: dict[str, int]
    memory: Memory


def lay_out(graph: SkipGraph, program: Program | None, composites: list[Stretch]) -> Clock:
    """Lay out ``graph`` as it was recorded, or without a program as it would run if each block went at its last use.

    Sets the nodes' ``bytes_out``, ``is_view``, ``block`` and ``workspace_bytes``.
    """
    order = sorted(graph.nodes(data=True), key=lambda item: item[1].get("index", 0))
    for _, attributes in order:
        attributes["bytes_out"] = math.prod(attributes["shape"]) * itemsize(attributes["dtype"])
    if program is None:
        return _unrecorded(graph, order)
    result = _recorded(order, program, recorded(program, composites))
    _set_workspaces(result)
    return result


def _recorded(order: list[tuple[str, NodeAttributes]], program: Program, memory: Memory) -> Clock:
    operators = program.operators
    inputs = iter(program.inputs)
    result = Clock(order, {}, {}, {}, memory)
    tick = -1
    for node, attributes in order:
        if attributes["op"] == "input":
            result.tick_of[node], result.step_of[node] = -1, 0
            result.block_of[node] = attributes["block"] = next(inputs).storage.index
            attributes["is_view"] = False
            continue
        # Pieces of a split and the further steps of a fused operator follow the node that stands for the operator.
        tick = attributes["operators"][-1] if attributes["operators"] else tick
        operator = operators[tick]
        value = operator.composite.outputs[0] if operator.composite is not None else operator.outputs[0]
        result.tick_of[node], result.step_of[node] = tick, memory.step_of[tick]
        result.block_of[node] = attributes["block"] = memory.block(value.storage.index)
        attributes["is_view"] = operator.is_view and operator.composite is None
    return result


def _set_workspaces(laid_out: Clock) -> None:
    """Set ``workspace_bytes``: the most that kernels, and blocks that no node stands for, hold while a node runs."""
    memory = laid_out.memory
    inner = list(memory.nbytes)
    for block in laid_out.block_of.values():
        inner[block] = 0
    held = replace(memory, nbytes=inner).held(memory.unused)
    start = 0
    for node, attributes in laid_out.order:
        end = laid_out.tick_of[node] + 1
        attributes["workspace_bytes"] = max(held[start:end], default=0)
        start = max(start, end)


def _unrecorded(graph: SkipGraph, order: list[tuple[str, NodeAttributes]]) -> Clock:
    memory, block_of = simulated(graph, order)
    tick_of = {node: -1 if attributes["op"] == "input" else tick for tick, (node, attributes) in enumerate(order)}
    step_of = {node: 0 if tick < 0 else memory.step_of[tick] for node, tick in tick_of.items()}
    for _, attributes in order:
        attributes.setdefault("is_view", attributes["kind"] in VIEWS)
    return Clock(order, tick_of, block_of, step_of, memory)


@cache
def itemsize(dtype: str) -> int:
    """Bytes of one element of a dtype by its name, ``"float32"`` say."""
    found = getattr(torch, dtype)
    return int(found.itemsize)
