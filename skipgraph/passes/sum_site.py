"""A sum that can become one layer on a concat."""

from __future__ import annotations

from dataclasses import dataclass, field

from skipgraph.passes.factors import Factor, Window
from skipgraph.passes.live_ranges import LiveRanges
from skipgraph.passes.site import Match


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
