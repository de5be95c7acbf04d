"""Walks through a region: all paths from one node to some slots."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from skipgraph.skips.region import Region


@dataclass(slots=True)
class Paths:
    """All paths from one node to some slots: nodes in order, with what is known from the source on."""

    nodes: list[int]
    weight: dict[int, int]  # most layers on one path from the source to here, this node included
    ends: dict[int, int]  # nodes that feed an end directly -> slots

    def heaviest(self) -> int:
        """Most layer operators on one of them."""
        return max((self.weight[node] for node in self.ends), default=0)


def between(region: Region, source: int, starts: list[int], through: int, ends: int) -> Paths:
    """All paths that begin at ``starts``, behind ``source``, and stay on nodes that reach a slot in ``through``."""
    at = region.at
    if not starts and at[source].slots & ends:
        return Paths([], {source: 0}, {source: ends})
    return _walk(region, [n for n in starts if at[n].reaches & through], lambda n: at[n].reaches & through, ends)


def around(region: Region, source: int, stem: set[int], ends: int) -> Paths:
    """All paths from ``source`` to ``ends`` that touch no node of ``stem``."""
    kept: set[int] = set()
    for node in sorted(region.at, reverse=True):
        if node > source and node not in stem:
            onwards = any(after in kept for after in region.at[node].following)
            if onwards or region.at[node].slots & ends:
                kept.add(node)
    starts = [node for node in region.at[source].following if node in kept]
    return _walk(region, starts, kept.__contains__, ends)


def _walk(region: Region, starts: list[int], on_path: Callable[[int], object], ends: int) -> Paths:
    """Everything behind ``starts`` that is ``on_path``, with weights."""
    at, signal = region.at, region.signal
    seen = set(starts)
    stack = list(seen)
    while stack:
        for after in at[stack.pop()].following:
            if after not in seen and on_path(after):
                seen.add(after)
                stack.append(after)
    order = sorted(seen)
    weight: dict[int, int] = {}
    found: dict[int, int] = {}
    for node in order:
        heaviest = 0
        for pred in signal.preds[node]:
            if weight.get(pred, 0) > heaviest:
                heaviest = weight[pred]
        weight[node] = heaviest + signal.layer[node]
        if hit := at[node].slots & ends:
            found[node] = hit
    return Paths(order, weight, found)


def heaviest_through(region: Region, paths: Paths, nodes: list[int]) -> int:
    """Most layer operators on one of the paths that lead through any of ``nodes``, of which there is one at least."""
    at, layer = region.at, region.signal.layer
    ahead: dict[int, int] = {}  # most layers from behind a node to an end
    for node in reversed(paths.nodes):  # what comes after a node and is known already is on a path itself
        ahead[node] = max([ahead[n] + layer[n] for n in at[node].following if n in ahead], default=0)
    return max(paths.weight[node] + ahead[node] for node in nodes)
