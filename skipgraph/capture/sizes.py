"""How a forward depends on the sizes of its inputs.

Sizes that it uses as data become expressions in other sizes, and what it compared them with becomes an assertion, where
traces at other sizes bear that out; where they do not, the size that was traced is asserted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from skipgraph.capture.assertions import Writer, assert_sizes
from skipgraph.capture.fits import Fits, Guard, find_fits, find_guards, leaves
from skipgraph.capture.trees import map_tensors, tensors
from skipgraph.capture.watched import Applied, plain


@dataclass(slots=True)
class Trace:
    """One traced forward: its graph and the comparisons of sizes that its code made."""

    graph: fx.Graph
    comparisons: list[Applied]

    @property
    def nodes(self) -> list[fx.Node]:
        """The nodes in order."""
        return list(self.graph.nodes)


if TYPE_CHECKING:
    from skipgraph.capture.calls import ScopedGraph

Tracing = Callable[[Any], Trace]

# Networks halve their input up to five times: sizes that differ by a multiple of this take the same way through most.
_STEP = 32


@dataclass(slots=True, eq=False)
class Symbol:
    """One size of the inputs, at every place where it stands.

    ``traces`` were made at other sizes and have the calls of the first one; ``tried`` are two other sizes that are
    expected to do. Where an odd size takes another way, ``step`` says by what multiple the size may differ.
    """

    places: list[tuple[int, int]]  # number of the input tensor, axis
    size: int
    traces: list[list[fx.Node]] = field(default_factory=list)
    tried: tuple[int, int] = (0, 0)
    step: int = 1
    odd: bool = True

    @property
    def is_batch(self) -> bool:
        """Whether it is the number of samples: the first axis."""
        return self.places[0][1] == 0


@dataclass(slots=True)
class Study:
    """What was found out about the sizes of a forward; `apply` writes it into a graph of the same calls."""

    trace: Trace
    nodes: list[fx.Node]
    free: list[Symbol]
    fixed: list[Symbol]
    fits: Fits
    guards: list[Guard]

    def apply(self, graph: ScopedGraph) -> tuple[str, ...]:
        """Make ``graph`` run at other sizes, in place; what had to be asserted."""
        others = list(graph.nodes)
        Writer(graph, dict(zip(self.nodes, others, strict=True))).write(self.nodes, self.fits, self.guards)
        texts = assert_sizes(graph, others, self.free, self.fixed)
        return (*texts, *(guard.text for guard in self.guards))

    def covers(self, other: Trace) -> bool:
        """Whether it holds for another trace at the same sizes (the other mode) too.

        They must make the same calls and the same comparisons; plain arguments may differ where neither moves with a
        size.
        """
        if not same_calls(self.nodes, other.nodes):
            return False
        if [*map(str, self.trace.comparisons)] != [*map(str, other.comparisons)]:
            return False
        for place, (mine, theirs) in enumerate(zip(self.nodes, other.nodes, strict=True)):
            ours, others = dict(leaves(mine)), dict(leaves(theirs))
            if ours.keys() != others.keys():
                return False
            moved = self.fits.get(place, {})
            for path, value in ours.items():
                same = type(plain(value)) is type(plain(others[path])) and plain(value) == plain(others[path])
                if _source(value) != _source(others[path]) or (path in moved and not same):
                    return False
        return True


def _source(value: Any) -> str:
    return str(getattr(value, "expression", ""))


def study(first: Trace, inputs: Any, tracing: Tracing) -> Study:
    """Find out how a forward depends on the sizes of its inputs.

    Parameters
    ----------
    first : Trace
        At the sizes of ``inputs``; tensor nodes carry ``meta["shape"]``.
    inputs : tree of tensors
    tracing : callable
        Traces the same forward with other inputs; may raise.
    """
    nodes = first.nodes
    free, fixed = _probed(inputs, tracing, nodes)
    while True:
        joint = _joint(free, inputs, tracing)
        if joint is not None and not same_calls(nodes, joint):
            joint, culprits = None, [symbol for symbol in free if not symbol.is_batch] or list(free)
            fits: Fits = {}
        else:
            variants = [trace for symbol in free for trace in symbol.traces]
            owners = [symbol for symbol in free for _ in symbol.traces]
            fits, moved = find_fits(nodes, [*variants, *([joint] if joint else [])])
            culprits = list(dict.fromkeys(owners[place] for place in moved if place < len(owners))) or (
                list(free) if moved else []
            )
        if not culprits:
            break
        for symbol in culprits:
            # What an odd size upsets may still hold at multiples of the step.
            if symbol.step == 1 and len(symbol.traces) > 1 and not symbol.is_batch:
                symbol.traces, symbol.step = symbol.traces[:1], _STEP
            else:
                free.remove(symbol)
                fixed.append(symbol)
    guards = find_guards(nodes, [*variants, *([joint] if joint else [])], first.comparisons)
    for symbol in free:
        if not symbol.odd and not guards:
            symbol.step = _STEP
    return Study(first, nodes, free, fixed, fits, guards)


# -- traces at other sizes -------------------------------------------------------------------------------------------


def _probed(inputs: Any, tracing: Tracing, nodes: list[fx.Node]) -> tuple[list[Symbol], list[Symbol]]:
    """The sizes that can be varied, with traces, and those that cannot.

    Equal sizes of several inputs are varied one by one where the model allows it, else together. Sizes that cannot be
    varied alone are tried with the others of the same size: height and width of a model that wants squares.
    """
    free: list[Symbol] = []
    fixed: list[Symbol] = []
    stubborn: list[Symbol] = []
    for symbol in _symbols(inputs):
        if len(symbol.places) > 1:
            alone = [Symbol([place], symbol.size) for place in symbol.places]
            if all(_probe(one, inputs, tracing, nodes) and one.traces for one in alone):
                free += alone
                continue
        runs = _probe(symbol, inputs, tracing, nodes)
        (free if symbol.traces else fixed if runs else stubborn).append(symbol)
    together: dict[int, Symbol] = {}
    for symbol in stubborn:
        together.setdefault(symbol.size, Symbol([], symbol.size)).places.extend(symbol.places)
    for symbol in together.values():
        if len(symbol.places) > 1:
            _probe(symbol, inputs, tracing, nodes)
        (free if symbol.traces else fixed).append(symbol)
    return free, fixed


def _symbols(inputs: Any) -> list[Symbol]:
    """The batch, then the other sizes of the inputs; equal sizes of several inputs on one axis go together."""
    found: dict[tuple[int, int], Symbol] = {}
    for number, tensor in enumerate(tensors(inputs)):
        for axis, size in enumerate(tensor.shape):
            found.setdefault((axis, size), Symbol([], size)).places.append((number, axis))
    return sorted(found.values(), key=lambda symbol: symbol.places[0][1])


def _candidates(symbol: Symbol) -> list[tuple[int, int, int]]:
    """Other sizes to trace at, several sets.

    In each, two that the model should run at as it does at this one, and a rougher one, that it need not run at.
    """
    size = symbol.size
    if symbol.is_batch:
        return [(size + 1, size + 3, size + 4), (2 * size, 3 * size, 4 * size)]
    if size >= _STEP:
        return [(size + _STEP, size + 2 * _STEP, size + 7), (size - _STEP, size + _STEP, size - 7)]
    return [(size + 2, size + 4, size + 3), (2 * size, 3 * size, 2 * size + 1), (size - 1, size - 2, size - 3)]


def _probe(symbol: Symbol, inputs: Any, tracing: Tracing, nodes: list[fx.Node]) -> bool:
    """Fill in the traces of ``symbol`` that have the calls of ``nodes``; whether the model runs at other sizes."""
    for size, second, rough in _candidates(symbol):
        trace = _at(dict.fromkeys(symbol.places, size), inputs, tracing)
        if trace is None:
            continue
        if same_calls(nodes, trace):
            symbol.traces, symbol.tried = [trace], (size, second)
            other = None if symbol.is_batch else _at(dict.fromkeys(symbol.places, rough), inputs, tracing)
            if other is not None:
                symbol.odd = same_calls(nodes, other)
                symbol.traces += [other] if symbol.odd else []
        return True
    return False


def _at(sizes: dict[tuple[int, int], int], inputs: Any, tracing: Tracing) -> list[fx.Node] | None:
    """The trace at other sizes; None where the model itself does not run at them."""
    if min(sizes.values()) < 1:
        return None
    numbers = {id(tensor): number for number, tensor in enumerate(tensors(inputs))}

    def resized(tensor: torch.Tensor) -> torch.Tensor:
        number = numbers[id(tensor)]
        shape = [sizes.get((number, axis), size) for axis, size in enumerate(tensor.shape)]
        return torch.empty(shape, dtype=tensor.dtype, device="meta")

    try:
        return tracing(map_tensors(resized, inputs)).nodes
    except Exception:
        return None


def _joint(free: list[Symbol], inputs: Any, tracing: Tracing) -> list[fx.Node] | None:
    """All free sizes changed at once.

    It checks that products of sizes were told apart rightly, and every single size once more.
    """
    if not free:
        return None
    for choice in (lambda number: (number + 1) % 2, lambda number: 1, lambda number: 0):
        sizes = {place: one.tried[choice(number)] for number, one in enumerate(free) for place in one.places}
        if (trace := _at(sizes, inputs, tracing)) is not None:
            return trace
    return None


def same_data(mine: torch.Tensor | None, theirs: torch.Tensor | None) -> bool:
    """Whether two tensors that stand in a graph as constants are the same."""
    if mine is theirs or mine is None or theirs is None:
        return mine is theirs
    if (mine.shape, mine.dtype) != (theirs.shape, theirs.dtype):
        return False
    one, other = (getattr(tensor, "constant", tensor) for tensor in (mine, theirs))
    if one is None or other is None or one.is_meta or other.is_meta:
        return one is other or (one is not None and other is not None and one.is_meta and other.is_meta)
    return torch.equal(one, other)


def same_calls(nodes: list[fx.Node], others: list[fx.Node]) -> bool:
    """Whether two traces make the same calls on the results of the same calls."""
    if len(nodes) != len(others):
        return False
    place = {node: number for number, node in enumerate(nodes)}
    place |= {node: number for number, node in enumerate(others)}
    return all(
        (a.op, a.target) == (b.op, b.target)
        and [place[n] for n in a.all_input_nodes] == [place[n] for n in b.all_input_nodes]
        and same_data(a.meta.get("constant"), b.meta.get("constant"))
        for a, b in zip(nodes, others, strict=True)
    )
