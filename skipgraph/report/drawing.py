"""The drawing model: what a diagram shows, before it is written in any language of drawings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from skipgraph.graph import Merge

Role = Literal["data", "skip", "gate", "side"]


@dataclass(slots=True)
class Box:
    """One node of the diagram: a stretch of operators that are drawn together.

    Attributes
    ----------
    id : str
        Id of its first operator.
    nodes : list of str
        All operators that it stands for, those of folded repetitions included.
    pattern : tuple of str
        Operator names of one repetition.
    module : str
        Module path that it belongs to, cut at the depth of the drawing.
    merge : Merge or None
        The merge that it is, if it is one.
    shape : tuple of int
        Shape of its result (of the first repetition).
    positions : int
        Resolution of its result.
    times : int
        How many repetitions it stands for.
    flops, parameters, skips : int
        Sums over all its operators; ``skips`` counts as `skipgraph.graph.Counts` does.
    held_at_peak : bool
        One of its results is live when memory is at its peak.
    cheap : bool
        Holds no layer, attention, pooling or merge: it may be drawn together with a neighbour.
    order : int
        Place of its first operator in the order of execution.
    """

    id: str
    nodes: list[str]
    pattern: tuple[str, ...]
    module: str
    merge: Merge | None
    shape: tuple[int, ...]
    positions: int
    order: int
    times: int = 1
    flops: int = 0
    parameters: int = 0
    skips: int = 0
    held_at_peak: bool = False
    cheap: bool = False
    kinds: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Style:
    """How an arrow looks: what it carries, and for a skip the kind of its merge and its span."""

    role: Role = "data"
    kind: str = ""
    long: bool = False


@dataclass(slots=True)
class Arrow:
    """One or more edges of the graph between the same two boxes, in the same style.

    ``bytes`` is what one repetition carries; ``skips`` are the ids of all skips whose shortcut operands it carries,
    over all repetitions, and ``times`` the number of repetitions.
    """

    tail: str
    head: str
    style: Style
    bytes: int = 0
    skips: list[str] = field(default_factory=list)
    held_at_peak: bool = False
    times: int = 1


@dataclass(slots=True)
class Frame:
    """A rounded frame around boxes: a module, a stretch that is repeated, or both."""

    title: str
    module: str
    times: int = 1
    members: list[Frame | str] = field(default_factory=list)

    def boxes(self) -> list[str]:
        """Ids of all boxes in it, nested frames included."""
        found: list[str] = []
        for member in self.members:
            found += member.boxes() if isinstance(member, Frame) else [member]
        return found


@dataclass(slots=True)
class Drawing:
    """A whole diagram; ``members`` are its frames and the boxes outside them, in the order of execution."""

    boxes: dict[str, Box]
    arrows: list[Arrow]
    members: list[Frame | str]
    depth: int
    modules: dict[str, str]
