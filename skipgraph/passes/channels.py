"""Where the channels that a concat joins go: through which nodes they pass one by one, and who reads them together."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cache
from itertools import accumulate
from typing import NamedTuple

from skipgraph.graph import Merge, NodeAttributes, SkipGraph
from skipgraph.ops import Kind, registered

_PRODUCTS = {"mm", "addmm", "bmm", "matmul", "linear"}
_BINARY = {kind.value for kind in (Kind.SUM, Kind.DIFFERENCE, Kind.PRODUCT, Kind.QUOTIENT)}
_PASSING = {kind.value for kind in (Kind.LINEAR_MAP, Kind.SLICE, Kind.REDUCE, Kind.EXPAND)}


class Channels(NamedTuple):
    """Where the operands of a concat lie in a tensor: along which axis, and how wide each is.

    ``times`` is how often they lie there, one row of operands behind the other: once, but for axes that are folded
    into a batch.
    """

    axis: int
    widths: tuple[int, ...]
    times: int = 1


@dataclass(slots=True)
class Followed:
    """What was found behind a concat.

    Attributes
    ----------
    carriers : dict
        The concat and the channel-wise nodes behind it, in order of execution, with where the operands lie in each.
    layers : dict
        Linear layers that read a carrier -> that carrier.
    concats : list of str
        Concats along the same axis that read a carrier.
    readers : list of str
        All that reads the concat itself.
    branches : bool
        Some carrier is read more than once.
    """

    carriers: dict[str, Channels] = field(default_factory=dict)
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

    @classmethod
    def by_context(cls, call: str, other: str) -> BlockedError:
        """A call that runs under something else than another one, whose place it would have to take."""
        return cls(call, f"{call} runs with other gradients, or in another precision, than {other}")


def follow(graph: SkipGraph, nodes: dict[str, NodeAttributes], merge: Merge) -> Followed:
    """Follow the channels of a concat to all linear layers that read them.

    Raises
    ------
    BlockedError
        At the first node, in order of execution, that needs all channels together.
    """
    axis = nodes[merge.node].get("axis") or 0
    widths = tuple(nodes[operand]["shape"][axis] for operand in merge.operands)
    if sum(widths) != nodes[merge.node]["shape"][axis]:
        raise BlockedError(merge.node, f"{merge.node} joins a constant as well")
    found = Followed()
    open_nodes = {merge.node: Channels(axis, widths)}
    while open_nodes:
        node = min(open_nodes, key=lambda name: nodes[name]["index"])
        channels = open_nodes.pop(node)
        _refuse(graph, nodes, node, merge, found)
        found.carriers[node] = channels
        readers = list(graph.adj[node])  # those of which no output is made read it as well
        found.branches = found.branches or len(readers) > 1
        found.readers = found.readers or readers
        for reader in readers:
            if _joins(nodes[reader], channels):
                if not nodes[reader].get("live", True):  # it is no merge, and so no site
                    raise BlockedError(reader, f"{reader}, of which no output is made, joins the channels again")
                found.concats.append(reader)
            elif _splits(graph, reader, nodes[reader], channels, len(nodes[node]["shape"])):
                found.layers[reader] = node
            else:
                carried = _carried_on(graph, nodes, node, reader, channels)
                if open_nodes.setdefault(reader, carried) != carried:
                    raise BlockedError(reader, f"{reader} combines the concatenated channels in two arrangements")
    return found


def _refuse(graph: SkipGraph, nodes: dict[str, NodeAttributes], node: str, merge: Merge, found: Followed) -> None:
    """Raise where a carrier is wanted whole, or is made of something else as well."""
    op = nodes[node]["op"]
    if _apart().get(op) and any(operand not in found.carriers for _, operand in graph.operands(node)):
        raise BlockedError(node, f"{node} ({op}) combines the concatenated channels with another tensor")
    if nodes[node].get("output"):
        what = "the concat" if node == merge.node else f"{node}, which carries the concatenated channels on,"
        raise BlockedError(node, f"{what} is also a model output")


def _joins(reader: NodeAttributes, channels: Channels) -> bool:
    """Whether ``reader`` is a concat along the channels."""
    return reader["kind"] == Kind.CONCAT.value and reader.get("axis") == channels.axis and channels.times == 1


def _carried_on(
    graph: SkipGraph, nodes: dict[str, NodeAttributes], node: str, reader: str, channels: Channels
) -> Channels:
    """Where the operands lie behind ``reader``; what folds them into others is to blame for what that cannot read."""
    try:
        return _carried(graph, nodes, node, reader, channels)
    except BlockedError:
        if channels.times == 1:
            raise
        raise BlockedError(node, f"{node} rearranges the concatenated channels") from None


def _splits(graph: SkipGraph, reader: str, attributes: NodeAttributes, channels: Channels, rank: int) -> bool:
    """Whether ``reader`` is linear and contracts the channels: W·cat(a, b) = W_a·a + W_b·b."""
    axis = channels.axis
    if channels.times > 1:
        return False
    if attributes["op"] == "convolution":
        return axis == 1 and attributes.get("settings", {}).get("groups", 1) == 1
    if attributes["op"] == "index_select":  # its matrix is made of zeros and ones
        return (axis,) == attributes.get("settings", {}).get("dims")
    if attributes["op"] in _PRODUCTS and attributes["kind"] == Kind.LAYER.value:
        return axis == rank - 1 and len(graph.pred[reader]) == 1
    return False


def _carried(
    graph: SkipGraph, nodes: dict[str, NodeAttributes], node: str, reader: str, channels: Channels
) -> Channels:
    """Where the operands lie behind ``reader``, if it works channel by channel."""
    attributes = nodes[reader]
    kind, op = attributes["kind"], attributes["op"]
    before, after = nodes[node]["shape"], attributes["shape"]
    axis = channels.axis
    if axis >= _windows_from(op, kind, len(before)) or (axis != 1 and _counts_channels(op, kind)):
        raise BlockedError(reader, f"{reader} ({op}) takes the concatenated channels for another axis")
    if op in ("convolution", "group_norm") and channels.times == 1:
        return Channels(axis, _grouped(reader, attributes, channels.widths, before[axis], after[axis]))
    if kind == Kind.NORM.value and op not in _channel_wise():
        raise BlockedError(reader, f"{reader} ({op}) normalises across the concatenated channels")
    if kind == Kind.VIEW.value:
        viewed = _viewed(attributes, before, after, channels)
        if viewed is None:
            raise BlockedError(reader, f"{reader} rearranges the concatenated channels")
        return viewed
    if kind == Kind.SLICE.value and attributes.get("axis") == axis:
        raise BlockedError(reader, f"{reader} takes a slice of the concatenated channels")
    if axis < _apart().get(op, 0):
        return channels
    if len(graph.pred[reader]) > 1 and kind not in _BINARY:
        raise BlockedError(reader, f"{reader} ({op}) combines the concatenated channels with another tensor")
    moved = _moved(attributes, axis, len(before), len(after))
    keeps = 0 <= moved < len(after) and after[moved] == before[axis]
    if not keeps or not (op in _channel_wise() or kind in _PASSING or kind in _BINARY):
        raise BlockedError(reader, f"{reader} ({op}) reads the concatenated channels together")
    return channels._replace(axis=moved)


def _windows_from(op: str, kind: str, rank: int) -> int:
    """The first of the axes that a pooling or a resampling works along: the last ones, as many as its name says."""
    if kind != Kind.RESAMPLE.value and "pool" not in op:
        return rank
    return rank - next((int(letter) for letter in op if letter in "123"), rank - 2)


def _counts_channels(op: str, kind: str) -> bool:
    """Whether an operator has numbers for each channel, which it takes to be along axis 1."""
    return op == "convolution" or (kind == Kind.NORM.value and (op in _channel_wise() or op == "group_norm"))


def _moved(attributes: NodeAttributes, axis: int, before: int, after: int) -> int:
    """The place of ``axis`` behind an operator that drops axes, or puts new ones in front; -1 if it is gone."""
    dropped = attributes.get("settings", {}).get("dims", ())
    if before > after and dropped:
        return -1 if axis in dropped else axis - sum(dim < axis for dim in dropped)
    return axis + after - before


def _viewed(
    attributes: NodeAttributes, before: tuple[int, ...], after: tuple[int, ...], channels: Channels
) -> Channels | None:
    """Where the operands lie in a view, if each is a stretch of one axis there, or is so time and again."""
    axis, widths, times = channels
    dims = attributes.get("settings", {}).get("dims")
    if dims is not None:
        return channels._replace(axis=dims.index(axis))
    total = sum(widths)
    ahead = math.prod(before[:axis]) * times
    for place, size in enumerate(after):
        outer = math.prod(after[:place])
        if outer == ahead and size < total and all(width * size % total == 0 for width in widths):
            return Channels(place, tuple(width * size // total for width in widths))  # of several channels each
        if outer < ahead and outer * size == ahead * total and size % total == 0:
            return Channels(place, widths, size // total)  # with what stands ahead of them
        if outer != ahead:
            continue
        # What follows the channels may be flattened into them: each channel is then several columns.
        for behind in range(axis + 1, len(before) + 1):
            columns = math.prod(before[axis + 1 : behind])
            if size == total * columns:
                return Channels(place, tuple(width * columns for width in widths))
    return None


def _grouped(
    reader: str, attributes: NodeAttributes, widths: tuple[int, ...], before: int, after: int
) -> tuple[int, ...]:
    """Groups whose borders fall on operand borders run on each operand alone."""
    groups = attributes.get("settings", {}).get("groups", 1)
    size = before // groups
    border = next((border for border in accumulate(widths) if border % size), None)
    if border is not None:
        raise BlockedError(reader, f"a group of {size} channels of {reader} straddles the boundary at channel {border}")
    return tuple(width * after // before for width in widths)


@cache
def _apart() -> dict[str, int]:
    """Operators of which the first axes are a batch -> how many."""
    return {facts.name: facts.apart for facts in registered().values() if facts.apart}


@cache
def _channel_wise() -> frozenset[str]:
    return frozenset(facts.name for facts in registered().values() if facts.distributes)
