"""Which operators are one merge together, and what its operands are."""

from __future__ import annotations

from dataclasses import dataclass

from skipgraph.ops import Kind
from skipgraph.skips.gates import Products

_SUMS = (Kind.SUM, Kind.DIFFERENCE)


@dataclass(slots=True)
class Slot:
    """One operand of a merge.

    ``gated``: a gate multiplies it inside the merge (x + g·(h − x) is g·h + (1 − g)·x). ``barred``: it may be no
    shortcut (the subtrahend of a difference).
    """

    node: int
    source: str
    reader: str = ""  # the node that reads it, where that is not the merge itself
    gated: bool = False
    barred: bool = False


class Merging:
    """Finds the merges: sums and concats of two or more, stacks that are summed, merges of merges.

    Attributes
    ----------
    slots : dict
        Merge node -> its slots.
    parts : dict
        Merge node -> the nodes that it was put together from.
    absorbed : set
        Nodes that became part of a merge behind them.
    """

    def __init__(self, products: Products) -> None:
        self._products = products
        self.slots: dict[str, list[Slot]] = {}
        self.parts: dict[str, list[str]] = {}
        self.absorbed: set[str] = set()
        for reading in products.order:
            if reading.live and (reading.kind in _SUMS or reading.kind in (Kind.CONCAT, Kind.REDUCE)):
                self._read(reading.name)

    def _read(self, name: str) -> None:
        products = self._products
        kind = products.of[name].kind
        slots: list[Slot] | None
        if kind in _SUMS and len(products.of[name].sources) > 1:
            slots = self._interpolation(name) or self._sum_slots(name, kind)
        elif kind is Kind.CONCAT and len(products.of[name].sources) > 1:
            slots = [Slot(-1, source) for source in products.of[name].sources]
        elif kind is Kind.REDUCE and self._products.of[name].op in ("sum", "mean"):
            slots = self._stacked(name)
        else:
            return
        if slots:
            self.parts[name] = [name]
            self.slots[name] = self._flattened(name, slots)

    def _sum_slots(self, name: str, kind: Kind) -> list[Slot]:
        products = self._products
        subtrahend = -1
        if kind is Kind.DIFFERENCE:
            subtrahend = 0 if self._products.of[name].op == "rsub" else 1
        return [
            Slot(-1, source, barred=place == subtrahend)
            for place, source in zip(products.of[name].places, products.of[name].sources, strict=True)
        ]

    def _flattened(self, name: str, slots: list[Slot]) -> list[Slot]:
        """Put in the slots of every operand that is a merge of the same kind and feeds this one alone."""
        result: list[Slot] = []
        for slot in slots:
            is_sum = self._products.of[name].kind is not Kind.CONCAT
            between = self._linear_maps(slot.source, slot.reader or name) if is_sum else []
            source = self._products.of[between[-1]].sources[0] if between else slot.source
            reader = between[-1] if between else slot.reader or name
            inner = self.slots.get(source)
            # What a gate rescales is a sum of its own.
            apart = inner is None or any(self._products.of[node].gated for node in between)
            if apart or self._products.consumers(source) != [reader] or not self._same_kind(source, name):
                result.append(slot)
                continue
            self.absorbed |= {source, *between}
            self.parts[name] = [*self.parts.pop(source), *between[::-1], *self.parts[name]]
            result += [
                Slot(-1, other.source, other.reader or source, other.gated or slot.gated, other.barred or slot.barred)
                for other in self.slots.pop(source)
            ]
        return result

    def _linear_maps(self, name: str, reader: str) -> list[str]:
        """The copies, scales and dropouts between ``reader`` and what they are maps of, latest first.

        A sum of a scaled sum is one sum, as it is when the scale is one or the dropout off.
        """
        products = self._products
        found: list[str] = []
        while products.of[name].kind is Kind.LINEAR_MAP and self._products.consumers(name) == [reader]:
            sources = products.of[name].sources
            if len(sources) != 1:
                return []
            found.append(name)
            name, reader = sources[0], name
        return found

    def _same_kind(self, a: str, b: str) -> bool:
        kinds = [self._products.of[name].kind for name in (a, b)]
        if Kind.CONCAT in kinds:
            return (
                kinds[0] is kinds[1] and self._products.of[a].axis_role == self._products.of[b].axis_role == "feature"
            )
        return True

    def _mapped(self, name: str, reader: str) -> str:
        """What ``name`` is a copy or scale of, made for ``reader`` alone."""
        between = self._linear_maps(name, reader)
        return self._products.of[between[-1]].sources[0] if between else name

    def _interpolation(self, name: str) -> list[Slot] | None:
        """x + g·(h − x) = g·h + (1 − g)·x: two gated operands."""
        of, consumers = self._products.of, self._products.consumers
        sources = of[name].sources
        if len(sources) != 2:
            return None
        for source, other in (sources, sources[::-1]):
            between = self._linear_maps(source, name)
            if not any(of[node].gated for node in between):
                continue
            difference = of[of[between[-1]].sources[0]]
            if difference.kind is not Kind.DIFFERENCE or consumers(difference.name) != [between[-1]]:
                continue
            if len(difference.sources) != 2:
                continue
            minuend, subtrahend = difference.sources
            if self._mapped(subtrahend, difference.name) == self._mapped(other, name):
                self.absorbed |= {*between, difference.name}
                return [Slot(-1, minuend, gated=True), Slot(-1, subtrahend, gated=True)]
        return None

    def _stacked(self, name: str) -> list[Slot] | None:
        """Tensors stacked and summed over the new axis, gated or scaled on the way or not."""
        products = self._products
        path = [name]
        gated = False
        while len(path) < 6:
            sources = products.of[path[-1]].sources
            if len(sources) != 1 or set(self._products.consumers(sources[0])) != {path[-1]}:
                return None
            source = sources[0]
            if products.of[source].kind is Kind.STACK:
                if (
                    self._products.of[source].axis != self._products.of[name].axis
                    or len(products.of[source].sources) < 2
                ):
                    return None
                self.absorbed |= {source, *path[1:]}
                return [Slot(-1, operand, source, gated) for operand in products.of[source].sources]
            if products.of[source].kind is not Kind.LINEAR_MAP:
                return None
            gated = gated or products.of[source].gated
            path.append(source)
        return None
