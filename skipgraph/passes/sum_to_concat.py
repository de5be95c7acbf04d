"""A sum of linear layers, or of anything else, becomes one layer on a concat."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

from skipgraph.graph import Merge, SkipGraph
from skipgraph.passes.factors import NO_LAYER, Factor, Factoring, Window
from skipgraph.passes.kernels import merged_workspace
from skipgraph.passes.live_ranges import Change, LiveRanges
from skipgraph.passes.site import Delta, Match, Refusal

_TELLING = ("stands between", "window", "shares", "read by others", NO_LAYER)


@dataclass(frozen=True, slots=True)
class Site(Match):
    """A sum that can become ``[W_a | W_b]·cat(a, b)``.

    Attributes
    ----------
    factors : tuple of Factor
        One an operand; identities where there is no layer to merge.
    windows : tuple of Window
        Those of the factors' layers, of volume 1 for identities.
    window : Window
        Of the merged layer.
    axis : int
        Of the concat.
    """

    factors: tuple[Factor, ...]
    windows: tuple[Window, ...]
    window: Window
    axis: int
    ranges: LiveRanges = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class SumToConcat:
    """``W_a·a + W_b·b = [W_a | W_b]·cat(a, b)``, with the identity where an operand is no linear layer's result.

    Exact, in train and eval mode. Identities are constant factors: they cost C² multiply-adds a position for C
    channels, and are no parameters. Convolutions of unlike kernels are padded with zeros to the larger one. A
    normalisation between a layer and the sum keeps the layer out of it, since in train mode it is no linear map.
    """

    name: ClassVar[str] = "sum_to_concat"

    def find(self, graph: SkipGraph) -> list[Site | Refusal]:
        """Look at every sum, in order.

        Parameters
        ----------
        graph : SkipGraph
            With its merges found, and priced.
        """
        ranges = LiveRanges(graph)
        factoring = Factoring(graph, ranges.nodes)
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
        that does the work of all factors, identities included.

        Returns
        -------
        Delta
        """
        nodes = site.ranges.nodes
        sum_shape, result = nodes[site.merge.node]["shape"], nodes[site.merge.node]["bytes_out"]
        features = sum_shape[site.axis]
        widths = [nodes[factor.tensor]["shape"][site.axis] for factor in site.factors]
        flops = math.prod(sum_shape) * site.window.volume * sum(widths)
        parameters = biases = 0
        joined = sum(nodes[factor.tensor]["bytes_out"] for factor in site.factors)
        moved = 3 * joined + result - 3 * (len(site.factors) - 1) * result
        for factor, width, window in zip(site.factors, widths, site.windows, strict=True):
            if factor.layer is not None:
                flops -= nodes[factor.layer]["flops"]
                parameters += (site.window.volume - window.volume) * width * features
                biases += factor.bias
                moved -= nodes[factor.tensor]["bytes_out"] + result
        peak = site.ranges.peak_after(_changes(site, joined))
        return Delta(flops, parameters - max(biases - 1, 0) * features, peak - site.ranges.peak_bytes, moved)


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


def _changes(site: Site, joined: int) -> list[Change]:
    """Live ranges if layers and sums go, and one layer on a concat runs where the last sum did."""
    ranges, nodes, merge = site.ranges, site.ranges.nodes, site.merge
    tick = ranges.tick_of[merge.node]
    result = nodes[merge.node]["bytes_out"]
    out = ranges.block(merge.node)
    kept = {ranges.block(factor.tensor) for factor in site.factors}
    vanish = [node for factor in site.factors if factor.layer for node in (factor.layer, *factor.between)]
    gone = {ranges.block(node) for node in (*vanish, *merge.nodes)} - kept - {out}
    changes = [ranges.without(block) for block in gone] + [ranges.extended(block, tick + 1) for block in kept]
    if out not in kept:
        changes.append(ranges.without(out, tick))
    for node in (*vanish, *merge.nodes):
        at = ranges.tick_of[node]
        changes.append((at, at + 1, -nodes[node].get("workspace_bytes", 0)))
    workspace = _workspace(site)
    freed = sum(ranges.nbytes(block) for block in kept if block == out or ranges.end(block) <= tick + 1)
    # First the concat is written, with no result yet; then the layer runs, its operands gone. A sum that was written
    # over an operand has no result of its own in these live ranges.
    there = 0 if out in kept else result
    changes.append((tick, tick + 1, joined + max(-there, workspace + result - there - freed)))
    return changes


def _workspace(site: Site) -> int:
    """What the kernel of the merged layer allocates for itself."""
    if not site.window.kernel:
        return 0
    nodes, merge, window = site.ranges.nodes, site.merge, site.window
    output = nodes[merge.node]["shape"]
    width = sum(nodes[factor.tensor]["shape"][1] for factor in site.factors)
    inputs = (output[0], width, *nodes[site.factors[0].tensor]["shape"][2:])
    weight = (output[1], width, *window.kernel)
    dtype = nodes[merge.node]["dtype"]
    return merged_workspace(inputs, weight, output, window.stride, window.padding, window.dilation, dtype)
