"""Which sums are executed as such: a concat that costs no memory where it stands may be the faster way to add up."""

from __future__ import annotations

from skipgraph.passes.concat_site import Site
from skipgraph.passes.concat_to_sum import ConcatToSum


def modelled(site: Site) -> str:
    """By how much a model of cost takes the parts of a site to be slower than its concat; empty if it does not.

    A deterministic model: what moves no more bytes than before is as fast.
    """
    more = ConcatToSum().price(site).bytes_moved
    return f"{more:,} more bytes would be moved" if more > 0 else ""


def level_bytes(site: Site) -> int:
    """The most bytes held from when a concat is made to when the last layer has read it, as it stands.

    Where that is more than the peak with all concats gone, the concat has to go for its memory.
    """
    ticks = site.ranges.tick_of
    last = max((*site.carriers, *site.layers), key=lambda node: ticks[node])
    return site.ranges.most_held(ticks[site.merge.node], ticks[last])
