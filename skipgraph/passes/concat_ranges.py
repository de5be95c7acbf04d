"""Live ranges if a concat and what follows it ran operand by operand."""

from __future__ import annotations

from itertools import pairwise

from skipgraph.passes.concat_site import Site
from skipgraph.passes.kernels import operand_copy, part_workspace
from skipgraph.passes.live_ranges import Change


def changes(site: Site) -> list[Change]:
    """How the live ranges of the original change.

    A chain of channel-wise nodes in front of a single layer runs operand by operand, so that only a slice of it is held
    at a time; with branches every node stays where it is, and works on the operands' slices one after another.
    """
    chain = len(site.layers) == 1 and not site.concats and not site.branches
    return _as_chain(site) if chain else _with_branches(site)


def _shares(site: Site) -> tuple[int, ...]:
    """Widths of the operands along the concat."""
    return site.carriers[site.merge.node].widths


def _workspaces(site: Site, layer: str) -> list[tuple[int, int]]:
    """What each part of a layer reads in the place of its operand, if it copies that, and what its kernel needs."""
    nodes = site.ranges.nodes
    shape = nodes[site.layers[layer]]["shape"]
    axis, widths, _ = site.carriers[site.layers[layer]]
    needed = {}
    for width in set(widths):
        given = nodes[layer], shape, axis, width
        needed[width] = operand_copy(*given), part_workspace(*given)
    return [needed[width] for width in widths]


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
    for node in (*list(site.carriers)[1:], layer):
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
    parts = zip(shares, _workspaces(site, layer), _freed_with(site, tick), strict=True)
    for place, (share, (copy, workspace), source) in enumerate(parts):
        for before, node in pairwise(site.carriers):
            if nodes[node].get("is_view") or (ranges.block(node) == ranges.block(before) != site.joined_block):
                continue
            part = nodes[node]["bytes_out"] * share // total
            balance += part
            most = max(most, balance + nodes[node].get("workspace_bytes", 0) * share // total)
            balance -= source
            source = part
        if copy:
            balance += copy
            most = max(most, balance)
            balance -= source
            source = copy
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
        most = _in_turn(nodes[layer]["bytes_out"], _workspaces(site, layer), _freed(site, layer, shares))
        changes.append((tick, tick + 1, most - nodes[layer].get("workspace_bytes", 0)))
    return changes


def _freed(site: Site, layer: str, shares: tuple[int, ...]) -> list[int]:
    """Bytes that go when each part of a layer has run: operands, or slices of the carrier that it reads."""
    ranges, carrier = site.ranges, site.layers[layer]
    tick = ranges.tick_of[layer]
    if carrier == site.merge.node:
        last = max(ranges.tick_of[node] for node in site.readers)
        return _freed_with(site, tick) if tick == last else [0] * len(shares)
    if ranges.end(ranges.block(carrier)) > tick + 1:
        return [0] * len(shares)
    return [ranges.nodes[carrier]["bytes_out"] * share // sum(shares) for share in shares]


def _in_turn(result: int, workspaces: list[tuple[int, int]], freed: list[int]) -> int:
    """The most bytes held while products run one after another and are summed up, besides operands and the sum."""
    most = balance = -result  # the first product is the sum
    for place, ((copy, workspace), gone) in enumerate(zip(workspaces, freed, strict=True)):
        if copy:
            balance += copy
            most = max(most, balance)
            balance -= gone
            gone = copy
        balance += result
        most = max(most, balance + workspace)
        balance -= gone + (result if place else 0)
    return most
