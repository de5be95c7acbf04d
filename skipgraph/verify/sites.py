"""Where two graphs are not the same calls: the parts that a rewrite replaced."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from skipgraph.passes.fx_calls import CONCATS


@dataclass(frozen=True, slots=True)
class Site:
    """A connected part that differs between two graphs, up to where they agree again.

    Attributes
    ----------
    inputs : tuple of str
        Nodes that both have and that either part reads. Parameters and buffers are no inputs, and concats are made of
        theirs: one part may read the operands where the other reads the concat.
    outputs : tuple of str
        Nodes that both have and that read the parts.
    before, after : tuple of fx.Node
        The parts in order of execution, ``outputs`` included.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    before: tuple[fx.Node, ...]
    after: tuple[fx.Node, ...]


def shared_nodes(before: fx.Graph, after: fx.Graph) -> dict[str, tuple[fx.Node, fx.Node]]:
    """Nodes that are the same call in both graphs, by name.

    They have one name, operator, target and plain arguments, and read nodes of one name, or nodes that only one graph
    has: there a rewrite ends.
    """
    theirs = {node.name: node for node in before.nodes}
    shared = {
        node.name: (theirs[node.name], node)
        for node in after.nodes
        if node.name in theirs and (node.op, node.target) == (theirs[node.name].op, theirs[node.name].target)
    }
    while True:
        wrong = [name for name, (a, b) in shared.items() if not _alike((a.args, a.kwargs), (b.args, b.kwargs), shared)]
        if not wrong:
            return shared
        for name in wrong:
            del shared[name]


def _alike(a: Any, b: Any, shared: dict[str, tuple[fx.Node, fx.Node]]) -> bool:
    if isinstance(a, fx.Node) or isinstance(b, fx.Node):
        if not (isinstance(a, fx.Node) and isinstance(b, fx.Node)):
            return False
        return a.name == b.name or a.name not in shared or b.name not in shared
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(_alike(x, y, shared) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_alike(a[key], b[key], shared) for key in a)
    if isinstance(a, slice) and isinstance(b, slice):
        return _alike((a.start, a.stop, a.step), (b.start, b.stop, b.step), shared)
    return type(a) is type(b) and bool(a == b)


def find_sites(before: fx.Graph, after: fx.Graph) -> list[Site]:
    """The parts, in the order of ``before``, or of ``after`` where nothing was there."""
    shared = shared_nodes(before, after)
    leader: dict[Any, Any] = {}

    def find(key: Any) -> Any:
        while leader.setdefault(key, key) != key:
            leader[key] = leader[leader[key]]
            key = leader[key]
        return key

    # An unshared node is itself, a shared one that reads such a node its name.
    for graph in (before, after):
        for node in graph.nodes:
            if node.name not in shared:
                find(node)
            for read in node.all_input_nodes:
                if read.name not in shared:
                    leader[find(node.name if node.name in shared else node)] = find(read)
    members: dict[Any, list[Any]] = defaultdict(list)
    for key in list(leader):
        members[find(key)].append(key)
    return [_site(keys, shared, before, after) for keys in members.values()]


def _site(keys: list[Any], shared: dict[str, tuple[fx.Node, fx.Node]], before: fx.Graph, after: fx.Graph) -> Site:
    inside = set(keys)
    names = {key for key in keys if isinstance(key, str)}
    parts = [
        tuple(node for node in graph.nodes if node in inside or (node.name in names and node.name in shared))
        for graph in (before, after)
    ]
    inputs = {
        given.name: None
        for part in parts
        for node in part
        for read in node.all_input_nodes
        if read.name in shared and (read.name not in names or node not in part)
        for given in _given(read, shared)
    }
    outputs = tuple(node.name for node in after.nodes if node.name in names and node.name in shared)
    return Site(tuple(inputs), outputs, *parts)


def _given(read: fx.Node, shared: Mapping[str, Any]) -> list[fx.Node]:
    """What has to be given to a part for it to have ``read``."""
    if read.op == "get_attr":
        return []
    if not _is_made_again(read) or not all(node.name in shared for node in read.all_input_nodes):
        return [read]
    return [given for node in read.all_input_nodes for given in _given(node, shared)]


def _is_made_again(node: fx.Node) -> bool:
    return node.op == "get_attr" or node.target in CONCATS


def part_module(root: torch.nn.Module, site: Site, nodes: tuple[fx.Node, ...]) -> fx.GraphModule:
    """One side of a site as a module of its inputs; it holds the very submodules and parameters of ``root``."""
    graph = fx.Graph()
    made = {name: graph.placeholder(f"value_{place}") for place, name in enumerate(site.inputs)}
    results: list[Any] = []

    def own(read: fx.Node) -> fx.Node:
        if read.name not in made:
            assert _is_made_again(read)
            made[read.name] = graph.node_copy(read, own)
        return made[read.name]

    for node in nodes:
        if node.op == "output":
            results.append(fx.node.map_arg(node.args[0], own))
            continue
        made[node.name] = graph.node_copy(node, own)
        if node.name in site.outputs:
            results.append(made[node.name])
    graph.output(tuple(results))
    return fx.GraphModule(root, graph)
