"""Which block of memory is held when, and how much that is at its worst.

Time is counted in *ticks*: one a captured operator, views included, so that nothing is lost. What users see are
*steps*: operators that are neither views nor inputs, a composite counting once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch

from skipgraph.capture.program import Program
from skipgraph.cost.fused import Stretch
from skipgraph.graph import NodeAttributes, SkipGraph
from skipgraph.ops import Facts, Kind, facts_of

_LINEAR = {torch.nn.functional.linear, torch.nn.functional.multi_head_attention_forward}
VIEWS = {Kind.VIEW.value, Kind.SLICE.value, Kind.EXPAND.value}


@dataclass(slots=True)
class Memory:
    """Blocks of memory and when they are held.

    A block is held at every tick from ``born`` to before its end. The four lists are by index of the block.

    Attributes
    ----------
    ticks : int
    nbytes : list of int
        0 for what is no activation: parameters, buffers, constants, and what a fused kernel never writes down.
    born : list of int
        Tick of the operator that allocated it; 0 for inputs.
    freed : list of int
        Tick by which an eager run has let go of it.
    unused : list of int
        Tick by which it could be freed, being read no more. The caller holds inputs and outputs to the end.
    workspace : dict
        Tick -> bytes that the operator's kernel allocates besides its results.
    step_of : list of int
        Tick -> step, from 1; a view belongs to the step before it.
    merged : dict
        Blocks that are one with another in a run that nobody watches -> that other.
    """

    ticks: int = 0
    nbytes: list[int] = field(default_factory=list)
    born: list[int] = field(default_factory=list)
    freed: list[int] = field(default_factory=list)
    unused: list[int] = field(default_factory=list)
    workspace: dict[int, int] = field(default_factory=dict)
    step_of: list[int] = field(default_factory=list)
    merged: dict[int, int] = field(default_factory=dict)

    def merge(self, block: int, into: int) -> None:
        """Let the block ``into`` be there from the start in place of ``block``, and as long as either."""
        block = self.merged.get(block, block)
        if block != into:
            self.born[into] = self.born[block]
            self.freed[into] = max(self.freed[into], self.freed[block])
            self.unused[into] = max(self.unused[into], self.unused[block])
            self.nbytes[block] = 0
            self.merged[block] = into

    def block(self, storage: int) -> int:
        """The block that a storage lies in."""
        while storage in self.merged:
            storage = self.merged[storage]
        return storage

    @property
    def steps(self) -> int:
        """Number of steps."""
        return self.step_of[-1] if self.step_of else 0

    def held(self, ends: Sequence[int]) -> list[int]:
        """Bytes held at each tick, workspaces included, if blocks are held until ``ends`` (`freed` or `unused`)."""
        change = [0] * (self.ticks + 1)
        for nbytes, born, end in zip(self.nbytes, self.born, ends, strict=True):
            if nbytes and born < end:
                change[born] += nbytes
                change[end] -= nbytes
        held = list(accumulate(change))[: self.ticks]
        for tick, nbytes in self.workspace.items():
            held[tick] += nbytes
        return held

    def peak(self, ends: Sequence[int]) -> tuple[int, int]:
        """The most bytes held at once, and the first tick at which they are; ``(0, 0)`` where nothing runs."""
        held = self.held(ends)
        most = max(held, default=0)
        return most, held.index(most) if held else 0


def recorded(program: Program, composites: list[Stretch]) -> Memory:
    """What capture saw: blocks from their allocation to the moment at which the interpreter let go of them."""
    operators = program.operators
    ticks = len(operators)
    memory = Memory(ticks)
    for storage in program.storages:
        activation = storage.origin in ("operator", "input")
        memory.nbytes.append(storage.nbytes if activation else 0)
        memory.born.append(max(storage.born, 0))
        memory.freed.append(ticks if storage.died is None or storage.origin == "input" else storage.died)
    memory.unused = _last_uses(program, memory)
    _add_in_place(program, memory)
    _put_kernels(program, composites, memory)
    memory.step_of = _steps(program)
    return memory


def _last_uses(program: Program, memory: Memory) -> list[int]:
    """The tick after the last call that reads each block.

    A call, or a composite, holds its arguments until it returns, and what it makes for itself as long as it was seen
    to.
    """
    operators = program.operators
    unused = [born + 1 for born in memory.born]
    end, group = len(operators), None
    for index in range(len(operators) - 1, -1, -1):
        operator = operators[index]
        owner = operator.composite or operator.call
        if owner is not group:
            end, group = index + 1, owner
        for value in operator.inputs:
            block = value.storage.index
            if unused[block] < end:
                unused[block] = end
    unused = [min(last, freed) for last, freed in zip(unused, memory.freed, strict=True)]
    for value in (*program.inputs, *program.outputs):
        unused[value.storage.index] = memory.ticks
    return unused


def _add_in_place(program: Program, memory: Memory) -> None:
    """Let biases be added in place: PyTorch's linear adds them out of place only where it is watched."""
    for operator in program.operators:
        if operator.name == "add" and operator.written is None and operator.call.function in _LINEAR:
            product, bias = operator.inputs[0].storage, operator.inputs[-1].storage
            if bias.origin == "parameter" and product.origin == "operator":
                memory.merge(product.index, operator.outputs[0].storage.index)


def _put_kernels(program: Program, composites: list[Stretch], memory: Memory) -> None:
    """Add the workspaces of kernels, and take away what fused ones never write down."""
    workspace = memory.workspace
    rules: dict[str, Facts] = {}
    for index, operator in enumerate(program.operators):
        facts = rules.get(operator.name)
        if facts is None:
            facts = rules[operator.name] = facts_of(operator.name)
        if facts.workspace is not None:
            nbytes = facts.workspace(operator)
            if nbytes:
                workspace[index] = nbytes
    for stretch in composites:
        if stretch.workspace is None:
            continue
        results = {value.storage.index for value in stretch.composite.outputs}
        for tick in range(stretch.first, stretch.last + 1):
            workspace.pop(tick, None)
            for value in program.operators[tick].outputs:
                storage = value.storage
                inner = storage.born >= stretch.first and memory.freed[storage.index] <= stretch.last + 1
                if inner and storage.index not in results:
                    memory.nbytes[storage.index] = 0
        workspace[stretch.last] = stretch.workspace
        if stretch.copy is not None:
            copied = program.operators[stretch.copy].outputs[0].storage.index
            memory.merge(stretch.composite.outputs[0].storage.index, copied)


def _steps(program: Program) -> list[int]:
    step_of = []
    step = 0
    composite = None
    for operator in program.operators:
        allocates = any(value.storage.nbytes for value in operator.outputs)
        if allocates and not operator.is_view and (operator.composite is None or operator.composite is not composite):
            step += 1
            composite = operator.composite
        step_of.append(step)
    return step_of


def simulated(graph: SkipGraph, order: list[tuple[str, NodeAttributes]]) -> tuple[Memory, dict[str, int]]:
    """What would be held if a graph ran node by node, each block freed at its last use.

    Parameters
    ----------
    graph : SkipGraph
    order : list
        Its nodes with their attributes, in order of execution. Of these are read ``op``, ``kind``, ``bytes_out``,
        ``output`` and, where present, ``block`` (else a view is taken to share that of its first operand) and
        ``workspace_bytes``.

    Returns
    -------
    tuple
        The memory, one tick a node, and the block of each node.
    """
    memory = Memory(len(order))
    block_of = _blocks(graph, order)
    tick_of = {node: tick for tick, (node, _) in enumerate(order)}
    readers_of = dict(graph.adjacency())
    nbytes, born, ends = memory.nbytes, memory.born, memory.unused
    step = 0
    for tick, (node, attributes) in enumerate(order):
        block = block_of[node]
        is_input = attributes["op"] == "input"
        if block == len(nbytes):
            nbytes.append(attributes["bytes_out"])
            born.append(0 if is_input else tick)
            ends.append(tick + 1)
        end = tick + 1
        if is_input or attributes.get("output"):  # the caller holds inputs and outputs
            end = memory.ticks
        elif readers := readers_of[node]:
            end = 1 + max([tick_of[reader] for reader in readers])
        if end > ends[block]:
            ends[block] = end
        if not is_input and not attributes.get("is_view", attributes["kind"] in VIEWS):
            step += 1
        memory.step_of.append(step)
        if workspace := attributes.get("workspace_bytes"):
            memory.workspace[tick] = workspace
    memory.freed = ends
    return memory, block_of


def _blocks(graph: SkipGraph, order: list[tuple[str, NodeAttributes]]) -> dict[str, int]:
    """The block of each node, numbered from 0 in order of first use."""
    numbers: dict[object, int] = {}
    block_of: dict[str, int] = {}
    for node, attributes in order:
        key: object = attributes.get("block", node)
        if key is node and attributes["kind"] in VIEWS and (operands := graph.pred[node]):
            block_of[node] = block_of[min(operands, key=lambda producer: min(operands[producer]))]
        else:
            block_of[node] = numbers.setdefault(key, len(numbers))
    return block_of
