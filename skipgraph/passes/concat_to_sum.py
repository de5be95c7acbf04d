"""A concat in front of linear layers becomes a sum of layers: one product an operand."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar

from skipgraph.graph import Merge, SkipGraph
from skipgraph.passes.channels import BlockedError, Followed, follow
from skipgraph.passes.kernels import part_workspace
from skipgraph.passes.live_ranges import Change, LiveRanges
from skipgraph.passes.site import Delta, Match, Refusal


@dataclass(frozen=True, slots=True)
class Site(Match):
    """A concat that can go.

    Attributes
    ----------
    carriers : tuple of str
        The concat, and the channel-wise nodes behind it that will run on each operand.
    layers : dict
        The layers that will be split -> the carrier that each reads.
    concats : tuple of str
        Later concats that will read the operands themselves.
    readers : tuple of str
        All that reads the concat itself.
    branches : bool
        Some carrier is read more than once.
    """

    carriers: tuple[str, ...]
    layers: dict[str, str]
    concats: tuple[str, ...]
    readers: tuple[str, ...]
    branches: bool
    ranges: LiveRanges = field(repr=False, compare=False)

    @property
    def joined_block(self) -> int:
        """The block of memory that the concat writes."""
        return self.ranges.block(self.merge.node)


@dataclass(frozen=True, slots=True)
class ConcatToSum:
    """``W·f(cat(a, b)) = W_a·f_a(a) + W_b·f_b(b)`` for linear layers W and channel-wise f; the bias is added once.

    Exact, in train and eval mode, at full rank. Convolutions of any rank without groups, transposed ones and linear
    layers are split; grouped convolutions and group norms whose group borders fall on operand borders are channel-wise
    here, as are batch norms, activations, dropout, pooling, resampling and padding. All that reads the concat must
    allow it, or the concat has to stay.
    """

    name: ClassVar[str] = "concat_to_sum"

    def find(self, graph: SkipGraph) -> list[Site | Refusal]:
        """Look at every concat along the feature axis, in order.

        Parameters
        ----------
        graph : SkipGraph
            With its merges found, and priced.
        """
        ranges = LiveRanges(graph)
        return [self._site(graph, merge, ranges) for merge in graph.merges if merge.kind == "concat"]

    def _site(self, graph: SkipGraph, merge: Merge, ranges: LiveRanges) -> Site | Refusal:
        attributes = ranges.nodes[merge.node]
        role = attributes.get("axis_role")
        if role != "feature":
            return Refusal(merge, "n/a", merge.node, f"{merge.node} joins its operands along the {role} axis")
        try:
            found = follow(graph, ranges.nodes, merge)
        except BlockedError as blocked:
            return Refusal(merge, "blocked", blocked.node, blocked.reason)
        if not found.layers and not found.concats:
            return Refusal(merge, "n/a", merge.node, f"no layer reads what {merge.node} joins")
        return Site(
            merge,
            _how(found),
            tuple(found.carriers),
            found.layers,
            tuple(found.concats),
            tuple(found.readers),
            found.branches,
            ranges,
        )

    def price(self, site: Site) -> Delta:
        """What the rewrite would change.

        Every multiply-add and every parameter stays, each with its operand. The concat is not written any more; a
        layer of k operands writes k results, k - 1 of which are added to the first. A chain of channel-wise nodes in
        front of a single layer runs operand by operand, so that only a slice of it is held at a time.

        Returns
        -------
        Delta
        """
        nodes, merge = site.ranges.nodes, site.merge
        more = len(merge.operands) - 1
        joined = sum(nodes[node]["bytes_out"] for node in {merge.node, *merge.nodes})
        results = sum(nodes[layer]["bytes_out"] for layer in site.layers)
        chain = len(site.layers) == 1 and not site.concats and not site.branches
        peak = site.ranges.peak_after(_as_chain(site) if chain else _with_branches(site))
        return Delta(peak_bytes=peak - site.ranges.peak_bytes, bytes_moved=4 * more * results - 2 * joined)


def _how(found: Followed) -> str:
    if not found.layers:
        return f"{found.concats[0]} joins the operands itself"
    first, *others = found.layers
    also = f", and so do {len(others)} more" if len(others) > 1 else f", and so does {others[0]}" if others else ""
    return f"{first} splits into one product an operand{also}"


def _shares(site: Site) -> list[int]:
    """Widths of the operands along the concat."""
    nodes = site.ranges.nodes
    axis = nodes[site.merge.node].get("axis") or 0
    return [nodes[operand]["shape"][axis] for operand in site.merge.operands]


def _workspaces(site: Site, layer: str, shares: list[int]) -> list[int]:
    """What the kernel of a layer needs for each of its parts."""
    nodes = site.ranges.nodes
    shape = nodes[site.layers[layer]]["shape"]
    axis = nodes[site.merge.node].get("axis") or 0
    total = sum(shares)
    needed = {share: part_workspace(nodes[layer], shape, axis, shape[axis] * share // total) for share in set(shares)}
    return [needed[share] for share in shares]


def _operand_changes(site: Site, end: int) -> list[Change]:
    """Operands are held until the last node that reads them itself."""
    ranges = site.ranges
    return [ranges.extended(block, end) for block in {ranges.block(operand) for operand in site.merge.operands}]


def _as_chain(site: Site) -> list[Change]:
    """Live ranges if the chain and its layer run operand by operand, all at the tick of the layer."""
    ranges, nodes = site.ranges, site.ranges.nodes
    (layer,) = site.layers
    tick = ranges.tick_of[layer]
    gone = {ranges.block(node) for node in (*site.carriers, *site.merge.nodes)}
    changes = [ranges.without(block) for block in gone] + _operand_changes(site, tick + 1)
    for node in (*site.carriers[1:], layer):
        at = ranges.tick_of[node]
        changes.append((at, at + 1, -nodes[node].get("workspace_bytes", 0)))
    changes.append((tick, tick + 1, _most_at_once(site, layer, tick)))
    return changes


def _most_at_once(site: Site, layer: str, tick: int) -> int:
    """The most bytes held while the parts of a chain run one after another, besides all operands and the result."""
    ranges, nodes = site.ranges, site.ranges.nodes
    shares = _shares(site)
    total, result = sum(shares), nodes[layer]["bytes_out"]
    balance = most = -result  # the first part makes it
    parts = zip(shares, _workspaces(site, layer, shares), _freed_with(site, tick), strict=True)
    for place, (share, workspace, source) in enumerate(parts):
        for before, node in pairwise(site.carriers):
            if nodes[node].get("is_view") or (ranges.block(node) == ranges.block(before) != site.joined_block):
                continue
            part = nodes[node]["bytes_out"] * share // total
            balance += part
            most = max(most, balance + nodes[node].get("workspace_bytes", 0) * share // total)
            balance -= source
            source = part
        balance += result
        most = max(most, balance + workspace)
        balance -= source + (result if place else 0)
    return most


def _freed_with(site: Site, tick: int) -> list[int]:
    """Bytes that go when the part of each operand has read it: none if somebody else still needs them."""
    ranges = site.ranges
    blocks = [ranges.block(operand) for operand in site.merge.operands]
    last = {block: place for place, block in enumerate(blocks)}
    return [
        ranges.nbytes(block) if last[block] == place and ranges.end(block) <= tick + 1 else 0
        for place, block in enumerate(blocks)
    ]


def _with_branches(site: Site) -> list[Change]:
    """Live ranges if every node stays where it is, working on the operands' slices one after another."""
    ranges, nodes = site.ranges, site.ranges.nodes
    shares = _shares(site)
    joined = {site.merge.node, *site.merge.nodes}
    changes: list[Change] = []
    for block in {ranges.block(node) for node in joined}:
        # What was written in place into the joined tensor needs memory of its own from there on.
        written = [
            ranges.tick_of[node]
            for node in site.carriers
            if ranges.block(node) == block and node not in joined and not nodes[node].get("is_view")
        ]
        changes.append(ranges.without(block, min(written, default=None)))
    changes += _operand_changes(site, 1 + max(ranges.tick_of[node] for node in site.readers))
    for layer in site.layers:
        tick = ranges.tick_of[layer]
        most = _in_turn(nodes[layer]["bytes_out"], _workspaces(site, layer, shares), _freed(site, layer, shares))
        changes.append((tick, tick + 1, most - nodes[layer].get("workspace_bytes", 0)))
    return changes


def _freed(site: Site, layer: str, shares: list[int]) -> list[int]:
    """Bytes that go when each part of a layer has run: operands, or slices of the carrier that it reads."""
    ranges, carrier = site.ranges, site.layers[layer]
    tick = ranges.tick_of[layer]
    if carrier == site.merge.node:
        last = max(ranges.tick_of[node] for node in site.readers)
        return _freed_with(site, tick) if tick == last else [0] * len(shares)
    if ranges.end(ranges.block(carrier)) > tick + 1:
        return [0] * len(shares)
    return [ranges.nodes[carrier]["bytes_out"] * share // sum(shares) for share in shares]


def _in_turn(result: int, workspaces: list[int], freed: list[int]) -> int:
    """The most bytes held while products run one after another and are summed up, besides operands and the sum."""
    most = balance = -result  # the first product is the sum
    for place, (workspace, gone) in enumerate(zip(workspaces, freed, strict=True)):
        balance += result
        most = max(most, balance + workspace)
        balance -= gone + (result if place else 0)
    return most
