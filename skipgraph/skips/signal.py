"""The graph that skips are looked for in: integers for nodes, gate edges dropped, merges of one kind put together."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from skipgraph.graph.types import Gate, SkipGraph
from skipgraph.ops import Kind
from skipgraph.skips.gates import Products, Reading
from skipgraph.skips.merging import Merging, Slot

_BUNDLED = 3  # operands from which on a shared beginning is worth a bundle


@dataclass(slots=True)
class Candidate:
    """A merge before it is known whether it is a skip.

    ``nodes`` names the merge nodes that were put together, ``slots`` the operands of them all.
    """

    node: int
    concat: bool
    feature: bool  # a concat along another axis is reported and is none
    axis: int | None
    slots: list[Slot]
    nodes: tuple[str, ...]


@dataclass(slots=True)
class Signal:
    """Live nodes in order of execution, as parallel lists.

    Operators in series that nothing else reads (convolution, norm, activation) are one node, named after the last of
    its ``members``. ``preds`` holds data operands without gate edges. Operand lists that begin alike share *bundles*,
    nodes without a name that stand for "these operands so far": a dense block of L layers then has some L edges where
    it had L²/2, on the same paths.
    """

    names: list[str] = field(default_factory=list)
    members: list[list[str]] = field(default_factory=list)
    preds: list[list[int]] = field(default_factory=list)
    layer: list[int] = field(default_factory=list)  # how many layer operators
    nonlinear: list[bool] = field(default_factory=list)
    tangled: list[bool] = field(default_factory=list)  # a non-linearity stands behind a layer inside it
    product: list[bool] = field(default_factory=list)  # of two activations
    gated: list[bool] = field(default_factory=list)
    projects: list[bool] = field(default_factory=list)  # convolves, multiplies by a matrix, pools or resamples
    resamples: list[bool] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    conditioning: list[bool] = field(default_factory=list)  # it and all its ancestors have one position
    carrying: list[list[int]] = field(default_factory=list)  # the operands that do more than condition it
    isolated: list[bool] = field(default_factory=list)  # it, and all that it is computed from, is read by one alone
    slices: list[tuple[int, int, int] | None] = field(default_factory=list)  # axis, start, stop
    candidates: dict[int, Candidate] = field(default_factory=dict)
    gates: list[Gate] = field(default_factory=list)

    def add(self, name: str, preds: list[int], positions: int) -> int:
        """Append a node that does nothing to its operands."""
        self.names.append(name)
        self.members.append([name] if name else [])
        self.preds.append(preds)
        self.positions.append(positions)
        self.conditioning.append(positions <= 1 and all(self.conditioning[pred] for pred in preds))
        self.layer.append(0)
        for flags in (self.nonlinear, self.tangled, self.product, self.gated, self.projects, self.resamples):
            flags.append(False)
        self.slices.append(None)
        return len(self.names) - 1

    def fork(self, node: int) -> int:
        """What forks where ``node`` does: the node itself, or the latest of the operands that a bundle stands for."""
        latest = -1
        while not self.names[node]:
            *before, operand = self.preds[node]
            latest = max(latest, operand)
            node = before[0] if before else latest
        return max(latest, node)


def read_signal(graph: SkipGraph) -> Signal:
    """Reduce ``graph`` to what section 2 of the design looks at."""
    products = Products(graph)
    merging = Merging(products)
    signal = Signal(gates=products.gates)
    place: dict[str, int] = {}
    bundles: dict[tuple[int, int], int] = {}
    for reading in products.order:
        name = reading.name
        if not reading.live or name in merging.absorbed:
            continue
        slots = merging.slots.get(name)
        if slots is None:
            if _continues(signal, reading, products, place):
                continue
            index = signal.add(name, [place[source] for source in reading.sources], 1)
        else:
            numbered = [replace(slot, node=place[slot.source]) for slot in slots]
            preds = _bundled(signal, [slot.node for slot in numbered], bundles)
            index = signal.add(name, preds, 1)
            concat = reading.kind is Kind.CONCAT
            signal.candidates[index] = Candidate(
                index,
                concat,
                not concat or reading.axis_role == "feature",
                reading.axis if concat else None,
                numbered,
                tuple(merging.parts[name]),
            )
        place[name] = index
        _describe(signal, index, reading)
    conditioning = signal.conditioning
    signal.carrying = [[pred for pred in preds if not conditioning[pred]] for preds in signal.preds]
    _mark_isolated(signal)
    return signal


def _mark_isolated(signal: Signal) -> None:
    """Find the nodes that fork off nowhere, and their ancestors neither: as operands they have no source."""
    readers = [0] * len(signal.names)
    for preds in signal.preds:
        for pred in preds:
            readers[pred] += 1
    for candidate in signal.candidates.values():  # what a bundle stands for is read by the merge all the same
        if len(candidate.slots) >= _BUNDLED:
            for slot in candidate.slots:
                readers[slot.node] += 1
    for node, preds in enumerate(signal.preds):
        signal.isolated.append(readers[node] <= 1 and all(signal.isolated[pred] for pred in preds))


_BREAKS = {Kind.INPUT, Kind.SLICE, Kind.POOL, Kind.RESAMPLE, Kind.SAMPLE, Kind.PRODUCT, Kind.MATMUL}


def _is_link(reading: Reading) -> bool:
    """Whether an operator can be part of a chain: one operand, and nothing that conditions ask of it by itself."""
    return len(reading.sources) == 1 and not (reading.kind in _BREAKS or reading.resamples or reading.gated)


def _continues(signal: Signal, reading: Reading, products: Products, place: dict[str, int]) -> bool:
    """Make an operator part of the chain in front of it, if it continues one."""
    if not _is_link(reading):
        return False
    source = products.of[reading.sources[0]]
    index = place[source.name]
    if signal.names[index] != source.name or index in signal.candidates or not _is_link(source):
        return False
    if products.consumers(source.name) != [reading.name]:
        return False
    layers, nonlinear = signal.layer[index], signal.nonlinear[index]
    tangled, projects = signal.tangled[index], signal.projects[index]
    _describe(signal, index, reading)
    signal.tangled[index] |= tangled or (bool(layers) and signal.nonlinear[index])
    signal.layer[index] += layers
    signal.nonlinear[index] |= nonlinear
    signal.projects[index] |= projects
    signal.names[index] = reading.name
    signal.members[index].append(reading.name)
    place[reading.name] = index
    return True


def _describe(signal: Signal, index: int, reading: Reading) -> None:
    kind, preds = reading.kind, signal.preds[index]
    signal.positions[index] = reading.positions
    signal.conditioning[index] = reading.positions <= 1 and all(signal.conditioning[pred] for pred in preds)
    signal.layer[index] = int(reading.layer)
    signal.nonlinear[index] = reading.nonlinear
    signal.tangled[index] = reading.nonlinear and reading.layer
    signal.product[index] = kind in (Kind.PRODUCT, Kind.MATMUL, Kind.SAMPLE) and len(preds) > 1
    signal.gated[index] = reading.gated
    signal.resamples[index] = reading.resamples and reading.carries  # attention weights have no resolution of their own
    signal.projects[index] = reading.layer or reading.resamples or kind in (Kind.POOL, Kind.RESAMPLE)
    if kind is Kind.SLICE and reading.slice is not None and reading.axis is not None:
        signal.slices[index] = (reading.axis, reading.slice[0], reading.slice[1])


def _bundled(signal: Signal, operands: list[int], bundles: dict[tuple[int, int], int]) -> list[int]:
    """``operands`` with what they share with earlier lists, from the front, replaced by one bundle."""
    if len(operands) < _BUNDLED:
        return operands
    bundle = -1
    for operand in operands:
        key = (bundle, operand)
        following = bundles.get(key)
        if following is None:
            preds = [operand] if bundle < 0 else [bundle, operand]
            following = bundles[key] = signal.add("", preds, signal.positions[operand])
        bundle = following
    return [bundle]
