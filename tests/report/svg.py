"""Reads from an SVG by Graphviz what a test asks about it."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from itertools import combinations

_NAMESPACE = "{http://www.w3.org/2000/svg}"
_CHARACTER = 0.55  # width of an average character of Helvetica over the size of the font
_ASCENT, _DESCENT = 0.75, 0.15


@dataclass(frozen=True)
class Label:
    """One line of text and the rectangle that it fills, in points."""

    text: str
    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: Label) -> bool:
        """Whether two labels share more than a point in both directions."""
        across = min(self.right, other.right) - max(self.left, other.left)
        down = min(self.bottom, other.bottom) - max(self.top, other.top)
        return across > 1 and down > 1


class Svg:
    """A parsed drawing."""

    def __init__(self, source: str) -> None:
        self.root = ElementTree.fromstring(source)
        groups = [(group.get("class"), group) for group in self.root.iter(f"{_NAMESPACE}g")]
        self.nodes = [group for name, group in groups if name == "node"]
        self.edges = [group for name, group in groups if name == "edge"]
        self.frames = [group for name, group in groups if name == "cluster"]

    def labels(self) -> list[Label]:
        """All lines of text."""
        return [_label(element) for element in self.root.iter(f"{_NAMESPACE}text") if (element.text or "").strip()]

    def text(self) -> str:
        """All text, one label a line."""
        return "\n".join(label.text for label in self.labels())

    def overlapping(self) -> list[tuple[str, str]]:
        """The texts of all pairs of labels that overlap."""
        return [(a.text, b.text) for a, b in combinations(self.labels(), 2) if a.overlaps(b)]


def _label(element: ElementTree.Element) -> Label:
    text = element.text or ""
    size, x, y = (float(element.get(name) or 0) for name in ("font-size", "x", "y"))
    width = _CHARACTER * size * len(text.strip())
    left = x - {"start": 0.0, "middle": width / 2, "end": width}[element.get("text-anchor") or "start"]
    return Label(text.strip(), left, y - _ASCENT * size, left + width, y + _DESCENT * size)
