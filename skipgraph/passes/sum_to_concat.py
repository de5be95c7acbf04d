"""A sum of linear layers, or of anything else, becomes one layer on a concat."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from skipgraph.graph import Merge, SkipGraph
from skipgraph.passes.channels import BlockedError
from skipgraph.passes.edit import Edits
from skipgraph.passes.factors import NO_LAYER, Factor, Factoring, Window
from skipgraph.passes.laws import merge
from skipgraph.passes.live_ranges import LiveRanges
from skipgraph.passes.record import SumRecord
from skipgraph.passes.site import Delta, Refusal
from skipgraph.passes.sum_ranges import changes
from skipgraph.passes.sum_site import Site
from skipgraph.passes.sum_steps import Merging, merging

_TELLING = ("stands between", "window", "shares", "read by others", NO_LAYER)


@dataclass(frozen=True, slots=True)
class SumToConcat:
    """``W_a·a + W_b·b = [W_a | W_b]·cat(a, b)``, with the identity where an operand is no linear layer's result.

    Exact, in train and eval mode. Identities are constant factors: they cost C² multiply-adds a position for C
    channels, and are no parameters. Convolutions of unlike kernels are padded with zeros to the larger one. A
    normalisation between a layer and the sum keeps the layer out of it, since in train mode it is no linear map.

    Parameters
    ----------
    eval_only : bool
        Rewrite the graph of evaluation alone, where a batch norm is a linear map, and so part of the layer in front of
        it. In training the model computes as before.
    allow_identity : bool
        Rewrite sums for which only identities fit, too: they cost C² multiply-adds an operand and remove nothing.
    """

    eval_only: bool = False
    allow_identity: bool = False
    name: ClassVar[str] = "sum_to_concat"

    def find(self, graph: SkipGraph) -> list[Site | Refusal]:
        """Look at every sum, in order.

        Parameters
        ----------
        graph : SkipGraph
            With its merges found, and priced.
        """
        ranges = LiveRanges(graph)
        factoring = Factoring(graph, ranges.nodes, fold_norms=self.eval_only)
        return [self._site(merge, factoring, ranges) for merge in graph.merges if merge.kind != "concat"]

    def _site(self, merge: Merge, factoring: Factoring, ranges: LiveRanges) -> Site | Refusal:
        nodes = ranges.nodes
        shape = nodes[merge.node]["shape"]
        for operand in merge.operands:
            if nodes[operand]["shape"] != shape:
                return Refusal(merge, "blocked", operand, f"{operand} is broadcast in {merge.node}")
        factors, window = factoring.factors(merge)
        windows = [factoring.window(factor.layer) if factor.layer else Window() for factor in factors]
        axis = factoring.axis(merge.node) if not any(factor.layer for factor in factors) else _axis(window, shape)
        return Site(merge, _how(merge, factors), tuple(factors), tuple(windows), window, axis, ranges)

    def price(self, site: Site) -> Delta:
        """What the rewrite would change.

        A sum of k tensors reads two and writes one k - 1 times; the concat is written and read instead, by a layer
        that does the work of all factors, identities included. Its weight is laid out of those of the factors, which
        stay the parameters.

        Returns
        -------
        Delta
        """
        nodes = site.ranges.nodes
        sum_shape, result = nodes[site.merge.node]["shape"], nodes[site.merge.node]["bytes_out"]
        widths = [nodes[factor.tensor]["shape"][site.axis] for factor in site.factors]
        flops = math.prod(sum_shape) * site.window.volume * sum(widths)
        joined = sum(nodes[factor.tensor]["bytes_out"] for factor in site.factors)
        moved = 3 * joined + result - 3 * (len(site.factors) - 1) * result
        for factor in site.factors:
            if factor.layer is not None:
                flops -= nodes[factor.layer]["flops"]
                moved -= nodes[factor.tensor]["bytes_out"] + result
        peak = site.ranges.peak_after(changes(site, joined))
        return Delta(flops=flops, peak_bytes=peak - site.ranges.peak_bytes, bytes_moved=moved)

    def steps(self, site: Site, graph: SkipGraph, edits: Edits) -> Merging | Refusal:
        """What has to be done to the calls of a graph.

        A site that the operators allow may still be refused: one that removes nothing, a hook on a layer.
        """
        if not self.allow_identity and not any(factor.layer for factor in site.factors):
            return Refusal(site.merge, "blocked", site.merge.node, f"{site.reason}; --allow-identity does it")
        try:
            return merging(site, graph, edits)
        except BlockedError as blocked:
            return Refusal(site.merge, "blocked", blocked.node, blocked.reason)

    def apply(self, site: Site, steps: Merging, graph: SkipGraph, edits: Edits) -> SumRecord:
        """Make the sum one layer on a concat; what was done is returned."""
        paths = [(edits.path(one.layer), edits.path(one.norm)) for one in steps.products]
        merge(edits, steps.at, steps.products, steps.window, steps.axis)
        return SumRecord(site.merge.id, steps.axis, tuple(paths))


def _axis(window: Window, shape: tuple[int, ...]) -> int:
    return 1 if window.kernel else len(shape) - 1


def _how(merge: Merge, factors: list[Factor]) -> str:
    layers = [factor.layer for factor in factors if factor.layer]
    notes = [factor.note for factor in factors if factor.note]
    if not layers:
        # What could be changed is worth telling first: a norm that could be folded, rather than a missing layer.
        told = min(notes, key=lambda note: next(rank for rank, word in enumerate(_TELLING) if word in note))
        return f"only identities fit in front of {merge.node}, which remove nothing: {told}"
    if len(layers) == len(factors):
        return f"{' and '.join(layers)} become one layer on a concat"
    return f"{' and '.join(layers)} and the identity become one layer on a concat"
