"""A sum of operators as products on calls: which layers become one on a concat, and what stands in the way."""

from __future__ import annotations

from dataclasses import dataclass

from skipgraph.graph import SkipGraph
from skipgraph.passes.channels import BlockedError
from skipgraph.passes.edit import Edits, Product
from skipgraph.passes.factors import Factor, Window
from skipgraph.passes.sum_site import Site


@dataclass(frozen=True, slots=True)
class Merging:
    """What law 4 is applied to: the sum at the call ``at``, of ``products``, and the ``adds`` that go."""

    at: str
    adds: tuple[str, ...]
    products: tuple[Product, ...]
    window: Window
    axis: int


def merging(site: Site, graph: SkipGraph, edits: Edits) -> Merging:
    """The products whose sum becomes one.

    Raises
    ------
    BlockedError
        If a call cannot be merged although its operators allow it.
    """
    nodes = graph.nodes
    at = nodes[site.merge.node]["site"]
    adds = tuple(dict.fromkeys(nodes[node]["site"] for node in site.merge.nodes))
    for add in adds:
        if not edits.intact(add):
            raise BlockedError(add, f"{add} was rewritten with an earlier site")
        if not edits.is_sum(add):
            raise BlockedError(add, f"{add} does more than add two tensors")
        others = edits.other_readers(add, adds) if add != at else []
        if others:
            raise BlockedError(others[0], f"{others[0]} reads {add}, which is only a part of the sum")
    ends = {nodes[factor.norm or factor.layer]["site"]: factor for factor in site.factors if factor.layer}
    for operand, factor in zip(site.merge.operands, site.factors, strict=True):
        if factor.layer:  # the sum may read it through a view, which is a call of its own
            ends.setdefault(nodes[operand]["site"], factor)
    products = tuple(
        _product(ends[term], adds, graph, edits) if term in ends else Product(term) for term in edits.terms(at, adds)
    )
    return Merging(at, adds, products, site.window, site.axis)


def _product(factor: Factor, adds: tuple[str, ...], graph: SkipGraph, edits: Edits) -> Product:
    nodes = graph.nodes
    call = nodes[factor.layer]["site"]
    norm = nodes[factor.norm]["site"] if factor.norm else None
    for node in factor.between:
        if nodes[node]["site"] not in (call, norm):
            raise BlockedError(node, f"{node} stands between {factor.layer} and the sum")
    if any(edits.context(one) != edits.context(adds[-1]) for one in (call, norm) if one is not None):
        raise BlockedError.by_context(call, adds[-1])
    obstacle = edits.merge_obstacle(call, norm)
    if obstacle is not None:
        raise BlockedError(call, obstacle)
    others = edits.other_readers(call, [norm] if norm else adds) + (edits.other_readers(norm, adds) if norm else [])
    if others:
        raise BlockedError(call, f"{others[0]} reads {call} too")
    return Product(edits.reads(call)[0], call, norm)
