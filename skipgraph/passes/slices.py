"""Slices of concats, read off the operands: ``cat(a, b)[i:j] = cat(a[i:], b[:j − |a|])``."""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import fx

from skipgraph.capture import Captured, ScopedGraph, copied
from skipgraph.graph import SkipGraph
from skipgraph.passes.fx_calls import CONCATS, SPLITS, axis_of, joined, let_join
from skipgraph.passes.fx_contexts import contexts
from skipgraph.passes.live_ranges import LiveRanges
from skipgraph.passes.workbench import Inputs, drawn


class Slice(NamedTuple):
    """A call that takes the channels from ``start`` to before ``stop`` of what a concat joins."""

    call: fx.Node
    concat: fx.Node
    axis: int
    start: int
    stop: int


def read_off_operands(captured: Captured, inputs: Inputs, *, joining: bool = False) -> Captured:
    """Law 8: ``cat(a, b)[i:j] = cat(a[i:], b[:j − |a|])`` along features.

    A slice within one operand is taken of that operand; one across operands, if none but concats along the same axis
    read it, gives them its parts (law 1). Only with ``joining`` is a new concat made for others that read it. The
    sliced concat is then read by others alone, and may go with laws 2 and 3.

    Proof. Channel *c* of the left side is channel *i* + *c* of the concat: of *a* if that is less than ``|a|``, else
    channel *i* + *c* - ``|a|`` of *b*. On the right it is the same one. A concat is a copy in one dtype and a slice
    of an operand is not, so that all have that dtype, and nothing writes over any after the concat was made. ∎

    Parameters
    ----------
    captured : Captured
        Left as it is.
    inputs : tuple
        Positional and keyword inputs.
    joining : bool
        Make concats where there are readers that need one.

    Returns
    -------
    Captured
        Shares its tensors with ``captured``; ``captured`` itself if there is no such slice.
    """
    if captured.is_source or not any(next(_slices(graph), None) for graph in captured.unlike_graphs()):
        return captured
    new = copy.copy(captured)
    copies = {id(graph): copied(graph) for graph in captured.unlike_graphs()}
    new.graphs = {mode: copies[id(graph)] for mode, graph in captured.graphs.items()}
    new.recompile()
    changed = False
    for graph in new.unlike_graphs():
        drawings = [drawn(new, inputs, train=mode) for mode, one in new.graphs.items() if one is graph]
        changed = _Reading(graph, drawings, joining).run() or changed
    new.recompile()
    return new if changed else captured


class _Reading:
    """Reads slices off operands in one graph.

    ``drawings`` are its graphs of operators: in training a dropout may write where in evaluation nothing does.
    """

    def __init__(self, graph: ScopedGraph, drawings: Sequence[SkipGraph], joining: bool) -> None:
        self.graph = graph
        self._joining = joining
        self._memories = [_Memory(drawing) for drawing in drawings]
        self._contexts = contexts(graph)

    def run(self) -> bool:
        """Whether anything was done. Operands may be concats themselves, of which slices are taken then."""
        if any(context.autocasts for context in self._contexts.values()):  # a view has its operand's dtype
            return False
        done = False
        while any([self._take(found) for found in list(_slices(self.graph))]):  # noqa: C419 (each of them is tried)
            done = True
        return done

    def _take(self, found: Slice) -> bool:
        """Read one slice off the operands, if it can be."""
        # A view has its operand's gradient, so that it may stand for a copy only where both are made alike.
        alike = len({self._contexts.get(one) for one in (found.call, found.concat, *joined(found.concat))}) == 1
        if found.call.users and alike and all(memory.allows(found) for memory in self._memories):
            self._replace(found, list(_overlaps(found)))
        if found.call.users:
            return False
        self._sweep(found.call)
        return True

    def _sweep(self, node: fx.Node) -> None:
        """Take out a slice that nobody reads, with the split and the concat that it alone was taken of."""
        sources = node.all_input_nodes
        self.graph.erase_node(node)
        for source in sources:
            for user in list(source.users):
                if user.target is getattr and not user.users:  # what asked for it, and is not read
                    self.graph.erase_node(user)
            if not source._erased and not source.users and (source.target in CONCATS or source.target in SPLITS):
                self._sweep(source)

    def _replace(self, found: Slice, parts: Sequence[tuple[fx.Node, int, int]]) -> None:
        call = found.call
        if len(parts) == 1:
            call.replace_all_uses_with(self._part(found, *parts[0]))
        elif all(user.target in CONCATS and axis_of(user) == found.axis for user in call.users):
            made = [self._part(found, *part) for part in parts]
            for user in list(call.users):
                let_join(user, [one for old in joined(user) for one in (made if old is call else [old])])
        elif self._joining:
            operands = [self._part(found, *part) for part in parts]
            with self.graph.inserting_before(call):
                whole = self.graph.call_function(torch.cat, (operands, found.axis))
            whole.meta = {**call.meta}
            self._contexts[whole] = self._contexts[call]
            self._know(whole, found.concat)
            call.replace_all_uses_with(whole)

    def _part(self, found: Slice, operand: fx.Node, start: int, stop: int) -> fx.Node:
        shape = operand.meta["shape"]
        if stop - start == shape[found.axis]:
            return operand
        with self.graph.inserting_before(found.call):
            made = self.graph.call_method("narrow", (operand, found.axis, start, stop - start))
        made.meta = {
            "shape": (*shape[: found.axis], stop - start, *shape[found.axis + 1 :]),
            "scope": found.call.meta.get("scope", ()),
        }
        self._contexts[made] = self._contexts[found.call]
        self._know(made, operand)
        return made

    def _know(self, made: fx.Node, like: fx.Node) -> None:
        """``made`` is a view of ``like``, or may be read as that is."""
        for memory in self._memories:
            memory.made[made.name] = memory.made[like.name]


class _Memory:
    """What a graph of operators tells of memory.

    ``made`` is the last operator of each call.
    """

    def __init__(self, drawing: SkipGraph) -> None:
        self._ranges = LiveRanges(drawing)
        self.made: dict[str, str] = {}
        self._written: dict[int, int] = {}  # block -> when it was last written over
        born: dict[int, int] = {}
        for node, attributes in self._ranges.nodes.items():
            self.made[attributes["site"] or node] = node  # an input has no call, and its own name
            block, now = self._ranges.block(node), attributes["index"]
            if not attributes.get("is_view") and born.setdefault(block, now) != now:
                self._written[block] = now

    def allows(self, found: Slice) -> bool:
        """Whether the concat joins features of one dtype, and nothing writes over it or an operand after it was made.

        Along other axes, and where positions are flattened into the features, the operands have other sizes with other
        inputs, and the same numbers are other parts then.
        """
        calls = (found.concat, *joined(found.concat))
        if any(call.name not in self.made for call in calls):
            return False
        nodes = [self.made[call.name] for call in calls]
        concat, *_ = known = [self._ranges.nodes[node] for node in nodes]
        if concat.get("axis_role") != "feature" or len(concat["shape"]) < 3:
            return False
        if any(one["dtype"] != concat["dtype"] for one in known):
            return False
        return all(self._written.get(self._ranges.block(node), -1) <= concat["index"] for node in nodes)


def _slices(graph: ScopedGraph) -> Iterator[Slice]:
    """The slices of concats along the axis of the concat, in order."""
    for node in graph.nodes:
        if _is_plain_concat(node):
            axis, size = axis_of(node), node.meta["shape"][axis_of(node)]
            for user in list(node.users):
                for call, bounds in _windows(user, node, axis, size):
                    if 0 <= bounds[0] < bounds[1] <= size and not any(one.op == "output" for one in call.users):
                        yield Slice(call, node, axis, *bounds)


def _is_plain_concat(node: fx.Node) -> bool:
    """Whether a concat joins tensors of one rank in memory of its own (PyTorch leaves out empty ones of rank 1)."""
    if node.target not in CONCATS or "shape" not in node.meta or "out" in node.kwargs:
        return False
    return all(len(operand.meta.get("shape", ())) == len(node.meta["shape"]) for operand in joined(node))


def _windows(user: fx.Node, of: fx.Node, axis: int, size: int) -> Iterator[tuple[fx.Node, tuple[int, int]]]:
    """The calls by which ``user`` takes stretches of ``of`` along ``axis``, with where those start and stop."""
    if not user.args or user.args[0] is not of:
        return
    rank = len(of.meta["shape"])
    if user.target is operator.getitem:
        bounds = _indexed(user.args[1], axis, rank, size)
        if bounds is not None:
            yield user, bounds
    elif user.target in ("narrow", torch.narrow) and len(user.args) == 4 and _plain(user.args[1:]):
        _, dim, start, length = user.args
        if int(dim) % rank == axis:  # type: ignore[arg-type]
            yield user, (int(start), int(start) + int(length))  # type: ignore[arg-type]
    elif user.target in SPLITS:
        widths = _split_widths(user, axis, rank, size)
        for part in user.users:
            if widths and part.target is operator.getitem and isinstance(part.args[1], int):
                place = part.args[1] % len(widths)
                yield part, (sum(widths[:place]), sum(widths[: place + 1]))


def _indexed(index: Any, axis: int, rank: int, size: int) -> tuple[int, int] | None:
    """The bounds of an index that is one stretch of one axis and all of the others."""
    given = index if isinstance(index, tuple) else (index,)
    if Ellipsis in given:
        place = given.index(Ellipsis)
        given = (*given[:place], *[slice(None)] * (rank - len(given) + 1), *given[place + 1 :])
    if len(given) <= axis or any(one != slice(None) for place, one in enumerate(given) if place != axis):
        return None
    stretch = given[axis]
    if not isinstance(stretch, slice) or stretch.step not in (None, 1) or not _plain((stretch.start, stretch.stop)):
        return None
    start, stop, _ = stretch.indices(size)
    return start, stop


def _split_widths(user: fx.Node, axis: int, rank: int, size: int) -> list[int]:
    """The widths of the parts that ``torch.split`` or ``torch.chunk`` makes; none if it is along another axis."""
    dim: Any = user.args[2] if len(user.args) > 2 else user.kwargs.get("dim", user.kwargs.get("axis", 0))
    named = [value for name, value in user.kwargs.items() if name not in ("dim", "axis")]  # the one of several names
    given: Any = [*user.args[1:2], *named][0]
    if not _plain((dim,)) or dim % rank != axis or not _plain(given if isinstance(given, (list, tuple)) else (given,)):
        return []
    if isinstance(given, (list, tuple)):
        return list(given)
    width = -(-size // given) if user.target in ("chunk", torch.chunk) else given
    return [min(width, size - start) for start in range(0, size, width)]


def _plain(values: Sequence[Any]) -> bool:
    """Whether all are numbers, or nothing, and none follows a size of the inputs."""
    return all(value is None or type(value) is int for value in values)


def _overlaps(found: Slice) -> Iterator[tuple[fx.Node, int, int]]:
    """The operands that a slice reads, each with the stretch of it."""
    operands = joined(found.concat)
    widths = [operand.meta["shape"][found.axis] for operand in operands]
    for operand, width, end in zip(operands, widths, accumulate(widths), strict=True):
        start, stop = max(found.start - (end - width), 0), min(found.stop - (end - width), width)
        if start < stop:
            yield operand, start, stop
