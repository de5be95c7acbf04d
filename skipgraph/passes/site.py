"""What a pass finds: a site where it applies, or why it does not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from skipgraph.graph import Merge


@dataclass(frozen=True, slots=True)
class Delta:
    """What a rewrite would change; negative is less.

    Attributes
    ----------
    flops : int
        Multiply-adds.
    parameters : int
        Elements of parameters; constant factors such as identities are buffers and do not count.
    peak_bytes : int
        Of the peak of activations, with each tensor freed at its last use before and after.
    bytes_moved : int
        Bytes of activations that operators read and write.
    """

    flops: int = 0
    parameters: int = 0
    peak_bytes: int = 0
    bytes_moved: int = 0


@dataclass(frozen=True, slots=True)
class Match:
    """A merge that a pass can rewrite, exactly; passes add what they need to do it. ``reason`` says how."""

    merge: Merge
    reason: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """A merge that a pass leaves alone.

    ``status`` is ``"blocked"`` where an operator stands in the way (``node``), ``"n/a"`` where the rewrite has no
    meaning; ``reason`` is one sentence that names the node.
    """

    merge: Merge
    status: Literal["blocked", "n/a"]
    node: str
    reason: str
