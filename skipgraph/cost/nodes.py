"""What each node costs: multiply-adds, parameters, what it leaves for the backward pass."""

from __future__ import annotations

import math
from typing import Any

from skipgraph.capture.program import Operator, Program
from skipgraph.cost.clock import Clock
from skipgraph.cost.flops import Flops
from skipgraph.cost.fused import Stretch
from skipgraph.graph import NodeAttributes
from skipgraph.ops import Kind, facts_of
from skipgraph.ops.elementwise import reduced_axes
from skipgraph.ops.shape import permutation


def book_flops(clock: Clock, flops: Flops) -> None:
    """Set the nodes' ``flops`` from those of the operators that they stand for."""
    of_operator = flops.of_operator
    for _, attributes in clock.order:
        attributes["flops"] = sum([of_operator[index] for index in attributes["operators"]])


def book_parameters(clock: Clock, program: Program) -> None:
    """Set the nodes' ``parameters``: elements, each counted at the first node that reads it.

    What is only viewed, cast or copied first is read by whoever reads the view, cast or copy.
    """
    reader_at: dict[int, NodeAttributes] = {}
    for _, attributes in clock.order:
        attributes["parameters"] = 0
        for index in attributes["operators"]:
            reader_at[index] = attributes
    read: set[int] = set()
    made_of: dict[int, dict[int, int]] = {}  # block -> the parameters that were copied into it: block, elements
    for operator in program.operators:
        for value in operator.inputs:
            storage = value.storage
            if storage.origin == "parameter":
                sources = {storage.index: storage.nbytes // value.dtype.itemsize}
            elif storage.index in made_of:
                sources = made_of[storage.index]
            else:
                continue
            reader = reader_at.get(operator.index)
            if reader is not None:
                reader["parameters"] += sum([size for block, size in sources.items() if block not in read])
                read.update(sources)
            elif not operator.is_view:
                for output in operator.outputs:
                    made_of.setdefault(output.storage.index, {}).update(sources)


def book_settings(clock: Clock, program: Program) -> None:
    """Set the ``settings`` that the laws of rewriting ask for."""
    for _, attributes in clock.order:
        if attributes["operators"]:
            settings = _settings(attributes, program.operators[attributes["operators"][-1]])
            if settings:
                attributes["settings"] = settings


def _settings(attributes: NodeAttributes, operator: Operator) -> dict[str, Any]:
    arguments, op = operator.args, attributes["op"]
    if op == "group_norm":
        return {"groups": arguments[6 if operator.name == "native_group_norm" else 1]}
    if op == "convolution" and len(arguments) > 8:
        return {
            "kernel": tuple(arguments[1].shape[2:]),
            "stride": tuple(arguments[3]),
            "padding": tuple(arguments[4]),
            "dilation": tuple(arguments[5]),
            "transposed": bool(arguments[6]),
            "groups": int(arguments[8]),
            "bias": arguments[2] is not None,
        }
    if op == "index_select":
        _, axis, index = arguments
        index_bytes = index.dtype.itemsize * math.prod(index.shape)
        return {"dims": (axis % len(operator.inputs[0].shape),), "index_bytes": index_bytes}
    if attributes["kind"] == Kind.REDUCE.value:
        return {"dims": reduced_axes(operator)}
    if op in ("permute", "transpose", "t"):
        return {"dims": permutation(operator)}
    return {}


def book_saved(clock: Clock, program: Program, composites: list[Stretch]) -> int | None:
    """Set the nodes' ``saved_bytes``, and return the total of what autograd keeps: each block of memory once.

    A fused kernel keeps its operands, its results and something of its own, not what capture saw it compute with.
    """
    if program.saved is None:
        return None
    kept = {value.storage.index: value.storage for value in program.saved}
    total = 0
    for stretch in composites:
        saves = facts_of(stretch.composite.name).saves
        if stretch.workspace is None or saves is None:
            continue
        total += saves(stretch.composite) or 0
        for operator in program.operators[stretch.first : stretch.last + 1]:
            for value in operator.outputs:
                kept.pop(value.storage.index, None)
        results = stretch.composite.outputs if stretch.copy is None else program.operators[stretch.copy].outputs
        for value in (*stretch.composite.inputs, *results):
            kept[value.storage.index] = value.storage
    node_at: dict[int, NodeAttributes] = {}
    for _, attributes in clock.order:
        attributes["saved_bytes"] = 0
        for index in attributes["operators"]:
            node_at[index] = attributes
    for storage in kept.values():
        if storage.origin in ("operator", "input"):
            total += storage.nbytes
            if storage.born in node_at:
                node_at[storage.born]["saved_bytes"] += storage.nbytes
    return total
