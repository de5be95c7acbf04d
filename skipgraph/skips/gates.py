"""Products: which factor is a gate, which product is an activation or a normalisation in disguise.

A gate is a sigmoid, hard sigmoid or softmax of data, up to 1 - g, scaling, sums and products of gates, views, slices
and resampling. A product with exactly one gate factor keeps the edge of the other alone: a gate rescales, it carries
no signal. Where both factors are element-wise functions of one tensor the product is an activation (SiLU is
x·sigmoid(x)); where one is a statistic of the data (a root mean square) it is a normalisation.
"""

from __future__ import annotations

from skipgraph.graph.types import Gate, SkipGraph
from skipgraph.ops import Kind

_PRODUCTS = {Kind.PRODUCT, Kind.MATMUL, Kind.QUOTIENT}
_KEEPS_GATE = {
    Kind.LINEAR_MAP, Kind.VIEW, Kind.SLICE, Kind.EXPAND, Kind.RESAMPLE, Kind.SUM, Kind.DIFFERENCE, Kind.PRODUCT,
    Kind.PAD, Kind.STACK,
}  # fmt: skip
_KEEPS_STATISTIC = {
    Kind.LINEAR_MAP, Kind.VIEW, Kind.EXPAND, Kind.SUM, Kind.PRODUCT, Kind.QUOTIENT, Kind.ELEMENTWISE, Kind.REDUCE,
}  # fmt: skip
_ELEMENTWISE = {Kind.LINEAR_MAP, Kind.ELEMENTWISE, Kind.ACTIVATION, Kind.SUM, Kind.DIFFERENCE, Kind.PRODUCT}
_ELEMENTWISE_REACH = 8  # operators; the longest activation written out in the wild (tanh GELU) takes seven


class Products:
    """The operands of every node once gates, activations and normalisations in disguise are seen through.

    Attributes
    ----------
    order : list of str
        Nodes in order of execution, constants left out.
    operands : dict
        Node -> the nodes of its remaining operands, in operand order.
    kinds : dict
        Node -> its kind, with disguises taken off.
    gated : set of str
        Products that a gate rescales.
    live : dict
        Whether a node still reaches an output.
    """

    def __init__(self, graph: SkipGraph) -> None:
        self.graph = graph
        nodes = graph.nodes
        places = [(attributes["index"], node) for node, attributes in nodes.items() if not attributes["constant"]]
        self.order = [node for _, node in sorted(places)]
        self.kinds: dict[str, Kind] = {}
        self.operands: dict[str, list[str]] = {}
        self.places: dict[str, list[int]] = {}
        self.gated: set[str] = set()
        self.gates: list[Gate] = []
        self._gate: set[str] = set()
        self._statistic: set[str] = set()
        for node in self.order:
            self._read(node)
        self.live = self._liveness()
        self.gates = [gate for gate in self.gates if self.live[gate.node]]

    def _read(self, node: str) -> None:
        attributes = self.graph.nodes[node]
        kind = Kind(attributes["kind"])
        pred = self.graph.pred[node]
        if len(pred) == 1 and len(only := next(iter(pred.items()))[1]) == 1:
            places, sources = [next(iter(only))], [next(iter(pred))]
        else:
            pairs = sorted((place, source) for source, keys in pred.items() for place in keys)
            places, sources = [place for place, _ in pairs], [source for _, source in pairs]
        if kind in _PRODUCTS and len(sources) == 2:
            kind, kept = self._seen_through(node, kind, sources)
            places, sources = [places[k] for k in kept], [sources[k] for k in kept]
        elif kind is Kind.GATE:
            self._gate.add(node)
        elif kind in _KEEPS_GATE and sources and all(source in self._gate for source in sources):
            self._gate.add(node)
        if self._is_statistic(kind, attributes, sources):
            self._statistic.add(node)
        self.kinds[node], self.operands[node], self.places[node] = kind, sources, places

    def _is_statistic(self, kind: Kind, attributes: dict[str, object], sources: list[str]) -> bool:
        if kind is Kind.REDUCE:
            return True
        keeps = kind in _KEEPS_STATISTIC or attributes["op"] == "clamp_min"
        return keeps and bool(sources) and all(source in self._statistic for source in sources)

    def _seen_through(self, node: str, kind: Kind, sources: list[str]) -> tuple[Kind, list[int]]:
        """The kind of a product of two, and which of its operands remain."""
        left, right = sources
        if kind is not Kind.MATMUL and self._one_tensor(left, right):
            return Kind.ACTIVATION, [0]
        gates = [source in self._gate for source in sources]
        if kind is not Kind.QUOTIENT and gates[0] != gates[1]:
            data = gates.index(False)
            self.gates.append(Gate(node, sources[data], sources[1 - data]))
            self.gated.add(node)
            # A softmax that mixes positions is attention; one that rescales them is a linear map.
            return (Kind.ATTENTION if kind is Kind.MATMUL else Kind.LINEAR_MAP), [data]
        if all(gates) and kind is Kind.PRODUCT:
            self._gate.add(node)
        statistics = [source in self._statistic for source in sources]
        if kind is not Kind.MATMUL and statistics[0] != statistics[1] and (kind is Kind.PRODUCT or statistics[1]):
            return Kind.NORM, [statistics.index(False)]
        return kind, [0, 1]

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
                kind = self.kinds[name]
                sigmoid = kind is Kind.GATE and self.graph.nodes[name]["op"] != "softmax"
                # A sum of different tensors is no function of one of them.
                if sigmoid or kind in _ELEMENTWISE and len(set(self._roots(name))) == 1:
                    following += [source for source in self.operands[name] if source not in found]
            if not following:
                break
            found.update(following)
            frontier = following
        return found

    def _roots(self, name: str) -> list[str]:
        sources = self.operands[name]
        if len(sources) < 2:
            return sources
        left, right = (self._elementwise_ancestors(source) for source in sources[:2])
        return [name] if left & right else sources

    def _liveness(self) -> dict[str, bool]:
        live = {node: bool(self.graph.nodes[node]["output"]) for node in self.order}
        for node in reversed(self.order):
            if live[node]:
                for source in self.operands[node]:
                    live[source] = True
        return live

    def consumers(self, node: str) -> list[str]:
        """The live consumers of ``node``, once an operand; an output counts as a consumer named ''."""
        found = [""] if self.graph.nodes[node]["output"] else []
        for reader in self.graph.succ[node]:
            if self.live.get(reader):
                found += [reader] * self.operands[reader].count(node)
        return found
