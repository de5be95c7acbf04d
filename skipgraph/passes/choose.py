"""Which sums are executed as such: a concat that costs no memory where it stands may be the faster way to add up."""

from __future__ import annotations

from collections.abc import Sequence

from skipgraph.passes.concat_site import Site
from skipgraph.passes.concat_to_sum import ConcatToSum

SLOWER = "{} more bytes would be moved, and the peak of memory is elsewhere: its product is executed on the concat"


def worth_it(sites: Sequence[Site], target_bytes: int) -> list[bool]:
    """Whether each concat should go, if the peak is to be no more than ``target_bytes``.

    A deterministic model: what moves no more bytes than before is as fast. Anything else is slower, and is done only
    where it is needed: where more than the target is held at once while the concat, as it stands, is made and read.
    """
    rewrite = ConcatToSum()
    return [rewrite.price(site).bytes_moved <= 0 or level_bytes(site) > target_bytes for site in sites]


def level_bytes(site: Site) -> int:
    """The most bytes held from when a concat is made to when the last layer has read it, as it stands."""
    ticks = site.ranges.tick_of
    last = max((*site.carriers, *site.layers), key=lambda node: ticks[node])
    return site.ranges.most_held(ticks[site.merge.node], ticks[last])
