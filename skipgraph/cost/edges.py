"""What each edge carries, for how long, and what is spent on it."""

from __future__ import annotations

from functools import cache
from operator import itemgetter

from skipgraph.cost.clock import Clock
from skipgraph.graph import EdgeAttributes, NodeAttributes, SkipGraph
from skipgraph.ops import Kind, registered

# Each operand of these takes part in the products as much as any other; elsewhere the first one is the signal.
_SHARED = {Kind.MATMUL.value, Kind.PRODUCT.value, Kind.ATTENTION.value, Kind.ATTENTION_LAYER.value}
# With one data operand they hand every channel on as it is: bias, scale, reshape, padding.
_TRANSPARENT = {Kind.LINEAR_MAP.value, Kind.VIEW.value, Kind.PAD.value}
_CONCAT = Kind.CONCAT.value

Operands = list[tuple[int, str, EdgeAttributes]]  # position, producer, edge; in operand order


def book_edges(graph: SkipGraph, clock: Clock) -> None:
    """Set the attributes of all edges.

    ``flops`` of a consumer go to its signal operand; matrix products and attention of several activations share them
    equally. They sum to the FLOPs of all nodes with operands. ``held_at_peak``: the tensor is there at the peak.
    """
    step_of = clock.step_of
    predecessors = graph._pred  # as networkx's own algorithms do: views of it cost more than all the rest here
    made: dict[str, tuple[int, bool, int]] = {}  # node -> bytes of its result, whether it is there at the peak, step
    for node, attributes in clock.order:
        step = step_of[node]
        made[node] = (attributes["bytes_out"], attributes["held_at_peak"], step)
        if producers := predecessors[node]:
            operands = _operands(producers)
            shares = _shares(attributes, len(operands))
            for (_, producer, edge), flops in zip(operands, shares, strict=True):
                nbytes, held_at_peak, since_step = made[producer]
                edge["bytes"] = nbytes
                edge["flops"] = flops
                edge["held_steps"] = step - since_step
                edge["held_at_peak"] = held_at_peak
    _attribute(graph, clock)


def _operands(producers: dict[str, dict[int, EdgeAttributes]]) -> Operands:
    if len(producers) == 1:
        ((producer, edges),) = producers.items()
        if len(edges) == 1:
            ((position, edge),) = edges.items()
            return [(position, producer, edge)]
    found = [(position, producer, edge) for producer, edges in producers.items() for position, edge in edges.items()]
    found.sort(key=itemgetter(0))
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


def _attribute(graph: SkipGraph, clock: Clock) -> None:
    """Set ``attributed_flops``: what is spent on an operand, also behind concats and channel-wise operators.

    A consumer's FLOPs are handed back through every node that passes its channels on: all of them to the one operand
    of a channel-wise operator, and at a concat to each operand by its share of the axis, which is the slice of the
    weight that reads it, in grouped convolutions too.
    """
    data_of = {gate.node: gate.data for gate in graph.gates}
    nodes, predecessors = dict(clock.order), graph._pred
    wanted: dict[str, int] = {}  # node -> FLOPs spent on its result
    for node, attributes in reversed(clock.order):
        producers = predecessors[node]
        if not producers:
            continue
        flops = wanted.pop(node, 0)
        operands = _operands(producers)
        passed = _passed_back(attributes, flops, operands, nodes, data_of.get(node)) if flops else None
        for place, (_, producer, edge) in enumerate(operands):
            spent = edge["flops"]
            if passed:
                spent += passed[place]
            edge["attributed_flops"] = spent
            if spent:
                wanted[producer] = wanted.get(producer, 0) + spent


def _passed_back(
    attributes: NodeAttributes, flops: int, operands: Operands, nodes: dict[str, NodeAttributes], data: str | None
) -> list[int] | None:
    """What each operand gets of ``flops`` that are spent on a result; None where the operator mixes channels."""
    kind = attributes["kind"]
    if kind == _CONCAT:
        axis = attributes.get("axis") or 0
        return split(flops, [nodes[producer]["shape"][axis] for _, producer, _ in operands])
    if data is not None:
        return [flops if producer == data else 0 for _, producer, _ in operands]
    if len(operands) == 1 and (kind in _TRANSPARENT or attributes["op"] in _channel_wise()):
        return [flops]
    return None


@cache
def _channel_wise() -> frozenset[str]:
    """Shown names of the operators that distribute over a concat."""
    return frozenset(facts.name for facts in registered().values() if facts.distributes)
