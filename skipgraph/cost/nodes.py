"""What each node costs: multiply-adds, parameters, what it leaves for the backward pass."""

from __future__ import annotations

from skipgraph.capture.program import Program
from skipgraph.cost.clock import Clock
from skipgraph.cost.flops import Flops
from skipgraph.cost.fused import Stretch
from skipgraph.graph import NodeAttributes


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


def book_saved(clock: Clock, program: Program, composites: list[Stretch]) -> int | None:
    """Set the nodes' ``saved_bytes``, and return the total of what autograd keeps: each block of memory once.

    A fused kernel keeps its operands and results instead of what capture saw it compute with.
    """
    if program.saved is None:
        return None
    kept = {value.storage.index: value.storage for value in program.saved}
    for stretch in composites:
        if stretch.workspace is not None:
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
    total = 0
    for storage in kept.values():
        if storage.origin in ("operator", "input"):
            total += storage.nbytes
            if storage.born in node_at:
                node_at[storage.born]["saved_bytes"] += storage.nbytes
    return total
