"""Products: which factor is a gate, which product is an activation or a normalisation in disguise.

A gate is a sigmoid, hard sigmoid or softmax of data, up to 1 - g, scaling, sums and products of gates, views, slices
and resampling. A product with exactly one gate factor keeps the edge of the other alone: a gate rescales, it carries
no signal. Where both factors are element-wise functions of one tensor the product is an activation (SiLU is
x·sigmoid(x)); where one is a statistic of the data (a root mean square) it is a normalisation.
"""

from __future__ import annotations

from dataclasses import dataclass

from skipgraph.graph.types import Gate, SkipGraph
from skipgraph.ops import Kind

_PRODUCTS = {Kind.PRODUCT, Kind.MATMUL, Kind.QUOTIENT}
_KEEPS_GATE = {
    Kind.LINEAR_MAP, Kind.VIEW, Kind.SLICE, Kind.EXPAND, Kind.RESAMPLE, Kind.SUM, Kind.DIFFERENCE, Kind.PRODUCT,
    Kind.PAD, Kind.STACK, Kind.REDUCE,
}  # fmt: skip
_KEEPS_STATISTIC = {
    Kind.LINEAR_MAP, Kind.VIEW, Kind.EXPAND, Kind.SUM, Kind.PRODUCT, Kind.QUOTIENT, Kind.ELEMENTWISE, Kind.REDUCE,
}  # fmt: skip
_ELEMENTWISE = {Kind.LINEAR_MAP, Kind.ELEMENTWISE, Kind.ACTIVATION, Kind.SUM, Kind.DIFFERENCE, Kind.PRODUCT}
_ELEMENTWISE_REACH = 8  # operators; the longest activation written out in the wild (tanh GELU) takes seven
_NONE: frozenset[str] = frozenset()


@dataclass(slots=True)
class Reading:
    """What detection asks of one node, read once: ``kind`` with disguises taken off, ``sources`` less gate edges."""

    name: str
    kind: Kind
    op: str
    sources: list[str]
    places: list[int]  # operand positions of the sources
    output: bool
    layer: bool
    nonlinear: bool
    resamples: bool
    positions: int
    axis: int | None
    axis_role: str | None
    slice: tuple[int, int, int] | None
    gated: bool = False  # a product that a gate rescales
    gate: bool = False
    statistic: frozenset[str] = frozenset()  # the tensors that it is a statistic of
    scores: str = ""  # of attention: the source that holds its weights
    live: bool = False  # still reaches an output
    carries: bool = False  # and not only as the weights of some attention


class Products:
    """The operands of every node once gates, activations and normalisations in disguise are seen through.

    Attributes
    ----------
    order : list of Reading
        Nodes in order of execution, constants left out.
    of : dict
        The same by name.
    """

    def __init__(self, graph: SkipGraph) -> None:
        self.graph = graph
        self.of: dict[str, Reading] = {}
        self.order: list[Reading] = []
        self.gates: list[Gate] = []
        found = [(attributes["index"], node) for node, attributes in graph.nodes.items() if not attributes["constant"]]
        found.sort()
        for _, node in found:
            reading = self.of[node] = self._read(node)
            self.order.append(reading)
        self._mark_live()
        self.gates = [gate for gate in self.gates if self.of[gate.node].live]

    def _read(self, node: str) -> Reading:
        attributes = self.graph._node[node]
        kind = Kind(attributes["kind"])
        pred = self.graph._pred[node]
        if len(pred) == 1 and len(next(iter(pred.values()))) == 1:
            ((source, (place,)),) = pred.items()
            places, sources = [place], [source]
        else:
            pairs = sorted((place, source) for source, keys in pred.items() for place in keys)
            places, sources = [place for place, _ in pairs], [source for _, source in pairs]
        reading = Reading(
            node, kind, attributes["op"], sources, places, attributes["output"], attributes["layer"],
            attributes["nonlinear"], attributes["resamples"], attributes["positions"], attributes["axis"],
            attributes["axis_role"], attributes["slice"],
        )  # fmt: skip
        if kind in _PRODUCTS and len(sources) == 2:
            self._see_through(reading)
        elif kind is Kind.GATE:
            reading.gate = True
        elif kind in _KEEPS_GATE and sources:
            reading.gate = all(self.of[source].gate for source in sources)
        reading.statistic = self._described(reading)
        return reading

    def _described(self, reading: Reading) -> frozenset[str]:
        """The tensors that a statistic describes: what is reduced, and what that is an element-wise function of."""
        if reading.kind not in _KEEPS_STATISTIC and reading.op != "clamp_min":
            return _NONE
        known = [self.of[source].statistic for source in reading.sources]
        if reading.kind is Kind.REDUCE:
            known = [
                of or frozenset(self._elementwise_ancestors(source))
                for of, source in zip(known, reading.sources, strict=True)
            ]
        return frozenset().union(*known) if all(known) else _NONE

    def _see_through(self, reading: Reading) -> None:
        """Take the disguise off a product of two: its kind, and which of its operands remain."""
        left, right = reading.sources
        kind = reading.kind
        if kind is not Kind.MATMUL and self._one_tensor(left, right):
            self._become(reading, Kind.ACTIVATION, 0, nonlinear=True)
            return
        gates = [self.of[source].gate for source in reading.sources]
        if kind is Kind.MATMUL and gates[0] != gates[1]:
            # A softmax that mixes positions is attention, with all its operands, as when it is one operator.
            reading.kind, reading.nonlinear = Kind.ATTENTION, True
            reading.scores = reading.sources[gates.index(True)]
            return
        if kind is Kind.PRODUCT and gates[0] != gates[1]:
            data = gates.index(False)
            self.gates.append(Gate(reading.name, reading.sources[data], reading.sources[1 - data]))
            reading.gated = True
            self._become(reading, Kind.LINEAR_MAP, data, nonlinear=False)
            return
        reading.gate = all(gates) and kind is Kind.PRODUCT
        statistics = [self.of[source].statistic for source in reading.sources]
        if kind is Kind.MATMUL or all(statistics) or not (statistics[1] or (kind is Kind.PRODUCT and statistics[0])):
            return
        data = 1 if statistics[0] else 0
        if statistics[1 - data] & self._elementwise_ancestors(reading.sources[data]):
            self._become(reading, Kind.NORM, data, nonlinear=False)

    def _become(self, reading: Reading, kind: Kind, kept: int, *, nonlinear: bool) -> None:
        reading.kind, reading.nonlinear = kind, nonlinear
        reading.sources, reading.places = [reading.sources[kept]], [reading.places[kept]]

    def _one_tensor(self, left: str, right: str) -> bool:
        """Whether both factors are element-wise functions of one tensor."""
        return left == right or bool(self._elementwise_ancestors(left) & self._elementwise_ancestors(right))

    def _elementwise_ancestors(self, node: str) -> set[str]:
        """``node`` and what it is an element-wise function of, as far back as that holds."""
        found = {node}
        frontier = [node]
        for _ in range(_ELEMENTWISE_REACH):
            following = []
            for name in frontier:
                kind = self.of[name].kind
                sigmoid = kind is Kind.GATE and self.of[name].op != "softmax"
                # A sum of different tensors is no function of one of them; statistics only shift and scale.
                roots = {source for source in self._roots(name) if not self.of[source].statistic}
                if sigmoid or (kind in _ELEMENTWISE and len(roots) == 1):
                    following += [source for source in self.of[name].sources if source not in found]
            if not following:
                break
            found.update(following)
            frontier = following
        return found

    def _roots(self, name: str) -> list[str]:
        sources = self.of[name].sources
        if len(sources) < 2:
            return sources
        left, right = (self._elementwise_ancestors(source) for source in sources[:2])
        return [name] if left & right else sources

    def _mark_live(self) -> None:
        for reading in reversed(self.order):
            reading.live = reading.live or reading.output
            reading.carries = reading.carries or reading.output
            if reading.live:
                for source in reading.sources:
                    read = self.of[source]
                    read.live = True
                    read.carries = read.carries or (reading.carries and source != reading.scores)

    def consumers(self, node: str) -> list[str]:
        """The live consumers of ``node``, once an operand; an output counts as a consumer named ''."""
        found = [""] if self.of[node].output else []
        for name in self.graph._succ[node]:
            reader = self.of.get(name)
            if reader is not None and reader.live:
                found += [name] * reader.sources.count(node)
        return found
