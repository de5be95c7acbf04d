"""A concat in front of linear layers becomes a sum of layers: one product an operand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from skipgraph.graph import Merge, SkipGraph
from skipgraph.ops import Kind
from skipgraph.passes.channels import BlockedError, Followed, follow
from skipgraph.passes.concat_ranges import changes
from skipgraph.passes.concat_site import Site, concats_of
from skipgraph.passes.concat_steps import steps, take_apart
from skipgraph.passes.edit import Edits, Step
from skipgraph.passes.live_ranges import LiveRanges
from skipgraph.passes.record import ConcatRecord
from skipgraph.passes.site import Delta, Refusal


@dataclass(frozen=True, slots=True)
class ConcatToSum:
    """``W·f(cat(a, b)) = W_a·f_a(a) + W_b·f_b(b)`` for linear layers W and channel-wise f; the bias is added once.

    Exact, in train and eval mode, at full rank. Convolutions of any rank without groups, transposed ones and linear
    layers are split; grouped convolutions and group norms whose group borders fall on operand borders are channel-wise
    here, as are batch norms, activations, dropout, pooling, resampling and padding. All that reads the concat must
    allow it, or the concat has to stay.

    With one of ``rank``, ``max_error`` and ``budget``, the layers that read the concats are replaced by pairs of layers
    of lower rank before, which is an approximation: see `skipgraph.compress`.

    Attributes
    ----------
    rank : float or int, optional
        The same for all layers: a share of the full rank (a float up to 1.0), or a number of channels (an int).
    max_error : float, optional
        Relative error of each layer's output that is not to be passed.
    budget : dict, optional
        ``{"flops": -0.3}``: by how much ``"flops"`` (multiply-adds), ``"parameters"``, ``"peak"`` (bytes held at once)
        or ``"latency"`` (seconds here) of the whole model may change.
    also : tuple of str
        ``("linear",)``: factor all other linear layers and convolutions too.
    method : str, optional
        See `skipgraph.compress.Asked`.
    """

    name: ClassVar[str] = "concat_to_sum"

    rank: float | int | None = None
    max_error: float | None = None
    budget: Mapping[str, float] | None = None
    also: tuple[str, ...] = ()
    method: str | None = None

    @property
    def is_exact(self) -> bool:
        """Whether nothing is approximated."""
        return self.rank is None and self.max_error is None and self.budget is None

    def find(self, graph: SkipGraph) -> list[Site | Refusal]:
        """Look at every concat along the feature axis, in order.

        Parameters
        ----------
        graph : SkipGraph
            With its merges found, and priced.
        """
        ranges = LiveRanges(graph)
        return [self._site(graph, merge, ranges) for merge in concats_of(graph)]

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
        overwritten = _overwritten(graph, ranges, merge, found) or _writes_over_input(graph, ranges, found)
        if overwritten is not None:
            return Refusal(merge, "blocked", *overwritten)
        return Site(
            merge,
            _how(found),
            found.carriers,
            found.layers,
            tuple(found.concats),
            tuple(found.readers),
            found.branches,
            ranges,
        )

    def price(self, site: Site) -> Delta:
        """What the rewrite would change.

        Every multiply-add and every parameter stays, each with its operand. The concat is not written any more; a
        layer of k operands writes k results, k - 1 of which are added to the first; a selection copies each operand,
        to put a channel of zeros behind it. A chain of channel-wise nodes in front of a single layer runs operand by
        operand, so that only a slice of it is held at a time.

        Returns
        -------
        Delta
        """
        nodes, merge = site.ranges.nodes, site.merge
        more = len(merge.operands) - 1
        joined = sum(nodes[node]["bytes_out"] for node in {merge.node, *merge.nodes})
        results = sum(nodes[layer]["bytes_out"] for layer in site.layers)
        peak = site.ranges.peak_after(changes(site))
        selecting = sum(_selecting_bytes(site, layer) for layer in site.layers if nodes[layer]["op"] == "index_select")
        moved = 4 * more * results - 2 * joined + selecting
        return Delta(peak_bytes=peak - site.ranges.peak_bytes, bytes_moved=moved)

    def steps(self, site: Site, graph: SkipGraph, edits: Edits) -> list[Step] | Refusal:
        """What has to be done to the calls of a graph, with the operands that the concat has at present.

        A site that the operators allow may still be refused: a hook on a layer, a weight that another call reads.
        """
        try:
            return steps(site, graph, edits)
        except BlockedError as blocked:
            return Refusal(site.merge, "blocked", blocked.node, blocked.reason)

    def apply(self, site: Site, steps: list[Step], graph: SkipGraph, edits: Edits) -> ConcatRecord:
        """Take the concat away; what was done is returned."""
        return take_apart(steps, site, graph, edits)


def _overwritten(graph: SkipGraph, ranges: LiveRanges, merge: Merge, found: Followed) -> tuple[str, str] | None:
    """A node that writes over what the parts still need: an operand, or a tensor that a carrier reads beside it.

    The concat has a copy of its operands, and has read them before; the parts read them later, as they do the other
    tensors, and in training they keep them for the backward pass.
    """
    nodes = ranges.nodes
    read: dict[int, list[tuple[int, str, str]]] = {}  # block -> when it was read, which tensor, by whom
    for operand in merge.operands:
        read.setdefault(ranges.block(operand), []).append((nodes[merge.node]["index"], operand, merge.node))
    for node in found.carriers:
        for _, other in graph.operands(node) if node != merge.node else ():
            if other not in found.carriers and ranges.block(other) != ranges.block(node):
                read.setdefault(ranges.block(other), []).append((nodes[node]["index"], other, node))
    for node, attributes in nodes.items():
        if attributes.get("is_view"):
            continue
        for first, operand, reader in read.get(ranges.block(node), ()):
            if attributes["index"] > first:
                what = "an operand of" if reader == merge.node else "which is read by"
                return node, f"{node} writes over {operand}, {what} {reader}, which its parts would still need"
    return None


def _writes_over_input(graph: SkipGraph, ranges: LiveRanges, found: Followed) -> tuple[str, str] | None:
    """A node that adds the channels onto an input of the model, which the caller has as well.

    The parts add slices of what is written over instead, and leave it as it is: for the backward pass autograd keeps
    whole tensors, and each part would write over the same one. Whoever reads it afterwards reads the sum.
    """
    nodes = ranges.nodes
    inputs = {ranges.block(node): node for node in nodes if nodes[node]["kind"] == Kind.INPUT.value}
    for node in found.carriers:
        onto = {ranges.block(one) for _, one in graph.operands(node) if one not in found.carriers}
        block = ranges.block(node)
        if block in onto and block in inputs and not nodes[node].get("is_view"):
            return node, f"{node} writes over {inputs[block]}, which the caller of the model has as well"
    return None


def _selecting_bytes(site: Site, layer: str) -> int:
    """What the parts of a selection move besides their results: operands with zeros behind them, and their places."""
    carrier, settings = site.ranges.nodes[site.layers[layer]], site.ranges.nodes[layer]["settings"]
    (axis,), parts = settings["dims"], len(site.merge.operands)
    zeros = parts * carrier["bytes_out"] // carrier["shape"][axis]
    return int(2 * (carrier["bytes_out"] + zeros) + 3 * parts * settings["index_bytes"])


def _how(found: Followed) -> str:
    if not found.layers:
        return f"{found.concats[0]} joins the operands itself"
    first, *others = found.layers
    also = f", and so do {len(others)} more" if len(others) > 1 else f", and so does {others[0]}" if others else ""
    return f"{first} splits into one product an operand{also}"
