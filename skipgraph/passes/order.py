"""The order in which a rewritten graph runs: one operand after another, branches as memory wants it."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import dataclass

from torch import fx

from skipgraph.cost.memory import simulated
from skipgraph.graph import SkipGraph
from skipgraph.passes.fx_edits import FxEdits

_LAST_PRODUCERS = 4  # places, counted back from the sum, that an operand's product may be moved to


@dataclass(slots=True)
class Sum:
    """A chain of additions that a layer was split into: ``adds[i]`` adds ``terms[i + 1]`` to what comes before."""

    adds: list[fx.Node]
    terms: list[fx.Node]

    def rewire(self, terms: list[fx.Node]) -> None:
        """Add the terms up in another order."""
        self.terms = terms
        total = terms[0]
        for add, term in zip(self.adds, terms[1:], strict=True):
            add.args = (total, term)
            total = add


def sums(edits: FxEdits) -> list[Sum]:
    """The sums that layers were split into, in order of execution."""
    made = edits.adds
    found = []
    for node in edits.graph.nodes:
        if node in made and not any(user in made and user.args[0] is node for user in node.users):
            adds = [node]
            while adds[0].args[0] in made:
                adds.insert(0, adds[0].args[0])
            terms = [adds[0].args[0], *(add.args[1] for add in adds)]
            found.append(Sum(adds, terms))
    return found


def operand_by_operand(edits: FxEdits) -> None:
    """Run what was made for one operand as late as it is needed, so that one part of a chain is held at a time.

    What stands where a layer stood stays there; the rest is put in front of its first reader, depth first.
    """
    movable = {node for node in edits.made if node.users} - {found.adds[-1] for found in sums(edits)}
    arrange(edits.graph, list(edits.graph.nodes), movable)


def arrange(graph: fx.Graph, order: Iterable[fx.Node], movable: set[fx.Node]) -> None:
    """Put the nodes of a graph into ``order``, those in ``movable`` where they are first needed."""
    placed: dict[fx.Node, None] = {}
    for anchor in order:
        if anchor in movable or anchor in placed:
            continue
        pending = [anchor]
        while pending:
            node = pending[-1]
            ahead = [one for one in node.all_input_nodes if one in movable and one not in placed]
            if ahead:
                pending.append(ahead[0])
            else:
                placed[pending.pop()] = None
    last = next(reversed(graph.nodes))
    for node in placed:
        if node is not last:
            last.prepend(node)


def accumulate_in_place(edits: FxEdits) -> None:
    """Add each product to the sum so far in place: it is the result of a layer, which nobody else has seen."""
    for found in sums(edits):
        for add in found.adds:
            add.target = operator.iadd


def _first(early: fx.Node, terms: list[fx.Node]) -> list[fx.Node]:
    rest = list(terms)
    rest.remove(early)
    return [early, *rest]


def overwritten(graph: SkipGraph, read: Iterable[fx.Node], between: set[str]) -> bool:
    """Whether any of the calls ``between``, by their names, writes over what some nodes have made."""
    names = {node.name for node in read}
    blocks = {attributes.get("block") for _, attributes in graph.nodes(data=True) if attributes["site"] in names}
    return any(
        attributes["site"] in between and attributes.get("block") in blocks and not attributes.get("is_view")
        for _, attributes in graph.nodes(data=True)
    )


class Scheduler:
    """Moves the products of sums to where they keep the fewest bytes.

    A sum of two operand chains is best evaluated as an expression is with the fewest registers: the operand whose
    evaluation needs most room first, or here, what frees an operand early before another operand is made at all (Sethi
    and Ullman, The Generation of Optimal Code for Arithmetic Expressions, 1970). Each sum is tried with one of its
    products moved in front of the last nodes that make the other operands; what lowers the memory held meanwhile,
    and does not raise the peak, is kept.

    Parameters
    ----------
    edits : FxEdits
        After all edits.
    graph : SkipGraph
        Of its operators now, priced.
    """

    def __init__(self, edits: FxEdits, graph: SkipGraph) -> None:
        self._edits = edits
        self._graph = graph
        self._last: dict[fx.Node, int] = {}

    def run(self) -> None:
        """Try every sum once, in order of execution."""
        for found in sums(self._edits):
            self._improve(found)

    def _improve(self, found: Sum) -> None:
        order = list(self._edits.graph.nodes)
        place = {node: number for number, node in enumerate(order)}
        best = None
        for early in found.terms:
            chain = self._chain(early)
            for anchor in self._anchors(found, early, place):
                if not self._may_move(chain, place[anchor], place):
                    continue
                if best is None:
                    best = order, found.terms, self._held(order, place[anchor], place[found.adds[-1]])
                moved = [node for node in order if node not in chain]
                at = moved.index(anchor)
                moved[at:at] = [node for node in order if node in chain]
                held = self._held(moved, place[anchor], place[found.adds[-1]])
                if held < best[2]:
                    best = moved, _first(early, found.terms), held
        if best is not None and best[1] is not found.terms:
            found.rewire(best[1])
            arrange(self._edits.graph, best[0], set())

    def _chain(self, term: fx.Node) -> set[fx.Node]:
        """What was made for one product alone."""
        chain = {term}
        pending = [term]
        while pending:
            for node in pending.pop().all_input_nodes:
                if node in self._edits.made and set(node.users) <= chain:
                    chain.add(node)
                    pending.append(node)
        return chain

    def _anchors(self, found: Sum, early: fx.Node, place: dict[fx.Node, int]) -> list[fx.Node]:
        """The last nodes that are there for the other products alone."""
        alone = {one for term in found.terms if term is not early for one in self._chain(term)}
        pending = list(alone)
        anchors: list[fx.Node] = []
        while pending and len(anchors) < _LAST_PRODUCERS:
            for node in pending.pop(0).all_input_nodes:
                if node not in alone and node.op not in ("placeholder", "get_attr") and set(node.users) <= alone:
                    alone.add(node)
                    pending.append(node)
                    anchors.append(node)
        return anchors

    def _may_move(self, chain: set[fx.Node], to: int, place: dict[fx.Node, int]) -> bool:
        """Whether all that a chain reads is there by then, and is not written over in between."""
        read = {node for one in chain for node in one.all_input_nodes if node not in chain}
        end = min(place[node] for node in chain)
        if to >= end or any(place[node] >= to for node in read):
            return False
        between = {node.name for node, number in place.items() if to <= number < end}
        return not overwritten(self._graph, read, between)

    def _held(self, order: list[fx.Node], start: int, end: int) -> tuple[int, int]:
        """The peak, and the most bytes held between two places, if the calls ran in this order."""
        site_place = {node.name: number for number, node in enumerate(order)}
        nodes = self._graph.nodes(data=True)
        ranked = sorted(nodes, key=lambda item: (site_place.get(item[1]["site"], -1), item[1]["index"]))
        memory, _ = simulated(self._graph, ranked)
        held = memory.held(memory.unused)
        inside = [
            bytes_held
            for bytes_held, (_, attributes) in zip(held, ranked, strict=True)
            if start <= site_place.get(attributes["site"], -1) <= end
        ]
        return max(held, default=0), max(inside, default=0)
