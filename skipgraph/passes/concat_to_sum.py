"""A concat in front of linear layers becomes a sum of layers: one product an operand."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar

from skipgraph.graph import Merge, NodeAttributes, SkipGraph
from skipgraph.ops import Kind
from skipgraph.passes.channels import Carrier, follow
from skipgraph.passes.live_ranges import Change, LiveRanges
from skipgraph.passes.site import Delta, Match, Refusal


@dataclass(frozen=True, slots=True)
class Site(Match):
    """A concat that can go.

    Attributes
    ----------
    carriers : tuple of str
        The concat, and the channel-wise nodes behind it that will run on each operand.
    layers : tuple of str
        The layers that will be split.
    concats : tuple of str
        Later concats that will read the operands themselves.
    """

    carriers: tuple[str, ...]
    layers: tuple[str, ...]
    concats: tuple[str, ...]
    ranges: LiveRanges = field(repr=False, compare=False)


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
        found = follow(graph, ranges.nodes, merge)
        if isinstance(found, tuple):
            node, reason = found
            return Refusal(merge, "blocked", node, reason)
        if not found.layers and not found.concats:
            return Refusal(merge, "n/a", merge.node, f"no layer reads what {merge.node} joins")
        return Site(
            merge, _how(found), tuple(found.carriers), tuple(found.layers), tuple(found.concats), ranges
        )
