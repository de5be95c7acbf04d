"""What each edge carries, for how long, and what is spent on it."""

from __future__ import annotations

from functools import cache

from skipgraph.cost.clock import Clock
from skipgraph.graph import EdgeAttributes, NodeAttributes, SkipGraph
from skipgraph.ops import Kind, registered

Operands = list[tuple[int, str, EdgeAttributes]]  # position, producer, edge; in operand order

# Each operand of these takes part in the products as much as any other; elsewhere the first one is the signal.
_SHARED = {Kind.MATMUL.value, Kind.PRODUCT.value, Kind.ATTENTION.value, Kind.ATTENTION_LAYER.value}
# With one data operand they hand every channel on as it is: bias, scale, reshape, a gated product's data.
_TRANSPARENT = {Kind.LINEAR_MAP.value, Kind.VIEW.value, Kind.PAD.value}


def book_edges(graph: SkipGraph, clock: Clock, peak_tick: int) -> None:
    """Set the attributes of all edges.

    ``flops`` of a consumer go to its signal operand; matrix products and attention of several activations share them
    equally. They sum to the FLOPs of all nodes with operands. ``held_at_peak``: the tensor is there at the peak and
    this use of it is still to come.
    """
    tick_of, step_of = clock.tick_of, clock.step_of
    nbytes = {node: attributes["bytes_out"] for node, attributes in clock.order}
    operands_of = {node: _operands(edges) for node, edges in graph.pred.items() if edges}
    for node, attributes in clock.order:
        operands = operands_of.get(node)
        if operands is None:
            continue
        tick, step = tick_of[node], step_of[node]
        shares = _shares(attributes, len(operands))
        for (_, producer, edge), flops in zip(operands, shares, strict=True):
            edge["bytes"] = nbytes[producer]
            edge["flops"] = flops
            edge["held_steps"] = step - step_of[producer]
            edge["held_at_peak"] = tick_of[producer] <= peak_tick <= tick
    _attribute(graph, clock, operands_of)


def _operands(predecessors: dict[str, dict[int, EdgeAttributes]]) -> Operands:
    found = [(key, producer, edge) for producer, edges in predecessors.items() for key, edge in edges.items()]
    if len(found) > 1:
        found.sort(key=lambda item: item[0])
    return found


def _shares(attributes: NodeAttributes, count: int) -> list[int]:
    flops = attributes["flops"]
    if count == 1:
        return [flops]
    if not flops or attributes["kind"] not in _SHARED:
        return [flops] + [0] * (count - 1)
    return split(flops, [1] * count)


def split(total: int, weights: list[int]) -> list[int]:
    """``total`` in whole parts that are proportional to ``weights`` and sum to it exactly.

    Examples
    --------
    >>> split(10, [1, 1, 1])
    [3, 3, 4]
    """
    whole = sum(weights)
    parts = []
    given = seen = 0
    for weight in weights:
        seen += weight
        parts.append(total * seen // whole - given if whole else 0)
        given += parts[-1]
    return parts


def _attribute(graph: SkipGraph, clock: Clock, operands_of: dict[str, Operands]) -> None:
    """Set ``attributed_flops``: what is spent on an operand, also behind concats and channel-wise operators.

    A consumer's FLOPs are handed back through every node that passes its channels on: all of them to the one operand
    of a channel-wise operator, and at a concat to each operand by its share of the axis, which is the slice of the
    weight that reads it, in grouped convolutions too.
    """
    data_of = {gate.node: gate.data for gate in graph.gates}
    shapes = {node: attributes["shape"] for node, attributes in clock.order}
    wanted: dict[str, int] = {}  # node -> FLOPs spent on its result
    for node, attributes in reversed(clock.order):
        operands = operands_of.get(node)
        if operands is None:
            continue
        passed = _passed_back(attributes, wanted.get(node, 0), operands, shapes, data_of.get(node))
        for (_, producer, edge), flops in zip(operands, passed, strict=True):
            edge["attributed_flops"] = spent = edge["flops"] + flops
            wanted[producer] = wanted.get(producer, 0) + spent


def _passed_back(
    attributes: NodeAttributes, flops: int, operands: Operands, shapes: dict[str, tuple[int, ...]], data: str | None
) -> list[int]:
    kind = attributes["kind"]
    if flops and kind == Kind.CONCAT.value:
        axis = attributes.get("axis") or 0
        return split(flops, [shapes[producer][axis] for _, producer, _ in operands])
    single = len(operands) == 1 and (kind in _TRANSPARENT or attributes["op"] in _channel_wise())
    if flops and (single or data is not None):
        signal = operands[0][1] if data is None else data
        return [flops if producer == signal else 0 for _, producer, _ in operands]
    return [0] * len(operands)


@cache
def _channel_wise() -> frozenset[str]:
    """Shown names of the operators that distribute over a concat."""
    return frozenset(facts.name for facts in registered().values() if facts.distributes)
