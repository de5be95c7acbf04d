"""Where the channels that a concat joins go: through which nodes they pass one by one, and who reads them together."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from itertools import accumulate

from skipgraph.graph import Merge, NodeAttributes, SkipGraph
from skipgraph.ops import Kind, registered

_PRODUCTS = {"mm", "addmm", "bmm", "matmul", "linear"}


@dataclass(slots=True)
class Followed:
    """What was found behind a concat.

    Attributes
    ----------
    carriers : list of str
        The concat and the channel-wise nodes behind it, in order of execution.
    layers : dict
        Linear layers that read a carrier -> that carrier.
    concats : list of str
        Concats along the same axis that read a carrier.
    readers : list of str
        All that reads the concat itself.
    branches : bool
        Some carrier is read more than once.
    """

    carriers: list[str] = field(default_factory=list)
    layers: dict[str, str] = field(default_factory=dict)
    concats: list[str] = field(default_factory=list)
    readers: list[str] = field(default_factory=list)
    branches: bool = False


class BlockedError(Exception):
    """An operator that needs the channels together: the node, and why in one sentence."""

    def __init__(self, node: str, reason: str) -> None:
        super().__init__(reason)
        self.node = node
        self.reason = reason


def follow(graph: SkipGraph, nodes: dict[str, NodeAttributes], merge: Merge) -> Followed:
    """Follow the channels of a concat to all linear layers that read them.

    Raises
    ------
    BlockedError
        At the first node, in order of execution, that needs all channels together.
    """
    axis = nodes[merge.node].get("axis") or 0
    widths = [nodes[operand]["shape"][axis] for operand in merge.operands]
    gated = {gate.node: gate.data for gate in graph.gates}
    found = Followed()
    open_nodes = {merge.node: widths}
    while open_nodes:
        node = min(open_nodes, key=lambda name: nodes[name]["index"])
        widths = open_nodes.pop(node)
        if nodes[node].get("output"):
            what = "the concat" if node == merge.node else f"{node}, which carries the concatenated channels on,"
            raise BlockedError(node, f"{what} is also a model output")
        found.carriers.append(node)
        readers = [reader for reader in graph.adj[node] if nodes[reader].get("live", True)]
        found.branches = found.branches or len(readers) > 1
        found.readers = found.readers or readers
        for reader in readers:
            attributes = nodes[reader]
            if attributes["kind"] == Kind.CONCAT.value and attributes.get("axis") == axis:
                found.concats.append(reader)
            elif _splits(graph, reader, attributes, axis, len(nodes[node]["shape"])):
                found.layers[reader] = node
            else:
                open_nodes[reader] = _carried(graph, nodes, node, reader, axis, widths, gated)
    return found


def _splits(graph: SkipGraph, reader: str, attributes: NodeAttributes, axis: int, rank: int) -> bool:
    """Whether ``reader`` is linear and contracts ``axis``: W·cat(a, b) = W_a·a + W_b·b."""
    if attributes["op"] == "convolution":
        return axis == 1 and attributes.get("settings", {}).get("groups", 1) == 1
    if attributes["op"] in _PRODUCTS and attributes["kind"] == Kind.LAYER.value:
        return axis == rank - 1 and len(graph.pred[reader]) == 1
    return False


def _carried(
    graph: SkipGraph, nodes: dict[str, NodeAttributes], node: str, reader: str, axis: int, widths: list[int],
    gated: dict[str, str],
) -> list[int]:  # fmt: skip
    """The operands' widths behind ``reader`` if it works channel by channel."""
    attributes = nodes[reader]
    kind, op = attributes["kind"], attributes["op"]
    before, after = nodes[node]["shape"], attributes["shape"]
    together = f"{reader} ({op}) reads the concatenated channels together"
    if op in ("convolution", "group_norm"):
        return _grouped(reader, attributes, widths, before[axis], after[axis])
    if kind == Kind.NORM.value and op not in _channel_wise():
        raise BlockedError(reader, f"{reader} ({op}) normalises across the concatenated channels")
    if kind == Kind.VIEW.value:
        if [size for size in before if size != 1] != [size for size in after if size != 1]:
            raise BlockedError(reader, f"{reader} rearranges the concatenated channels")
        return widths
    if len(graph.pred[reader]) > 1 and gated.get(reader) != node:
        if kind in (Kind.SUM.value, Kind.DIFFERENCE.value):
            raise BlockedError(reader, f"{reader} adds another tensor to the concatenated channels")
        raise BlockedError(reader, f"{reader} ({op}) combines the concatenated channels with another tensor")
    if kind == Kind.SLICE.value and attributes.get("axis") == axis:
        raise BlockedError(reader, f"{reader} takes a slice of the concatenated channels")
    keeps = len(after) > axis and after[axis] == before[axis]
    passes = op in _channel_wise() or kind in (Kind.LINEAR_MAP.value, Kind.SLICE.value, Kind.REDUCE.value)
    if not keeps or not (passes or gated.get(reader) == node):
        raise BlockedError(reader, together)
    return widths


def _grouped(reader: str, attributes: NodeAttributes, widths: list[int], before: int, after: int) -> list[int]:
    """Groups whose borders fall on operand borders run on each operand alone."""
    groups = attributes.get("settings", {}).get("groups", 1)
    size = before // groups
    border = next((border for border in accumulate(widths) if border % size), None)
    if border is not None:
        raise BlockedError(reader, f"a group of {size} channels of {reader} straddles the boundary at channel {border}")
    return [width * after // before for width in widths]


@cache
def _channel_wise() -> frozenset[str]:
    return frozenset(facts.name for facts in registered().values() if facts.distributes)
