"""A concat that can go, and what stands behind it."""

from __future__ import annotations

from dataclasses import dataclass, field

from skipgraph.passes.channels import Channels
from skipgraph.passes.live_ranges import LiveRanges
from skipgraph.passes.site import Match


@dataclass(frozen=True, slots=True)
class Site(Match):
    """A concat that can go.

    Attributes
    ----------
    carriers : dict
        The concat, and the channel-wise nodes behind it that will run on each operand, with where the operands lie.
    layers : dict
        The layers that will be split -> the carrier that each reads.
    concats : tuple of str
        Later concats that will read the operands themselves.
    readers : tuple of str
        All that reads the concat itself.
    branches : bool
        Some carrier is read more than once.
    """

    carriers: dict[str, Channels]
    layers: dict[str, str]
    concats: tuple[str, ...]
    readers: tuple[str, ...]
    branches: bool
    ranges: LiveRanges = field(repr=False, compare=False)

    @property
    def joined_block(self) -> int:
        """The block of memory that the concat writes."""
        return self.ranges.block(self.merge.node)
