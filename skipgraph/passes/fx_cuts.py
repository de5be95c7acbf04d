"""The parts of a call of a captured model: what each calls, and with which slices of all tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx

from skipgraph.capture import Captured, ScopedGraph
from skipgraph.graph import SkipGraph
from skipgraph.ops.cuts import Cut, cut_of_function, cut_of_module, function_of_module
from skipgraph.passes.channels import Channels
from skipgraph.passes.edit import Parts
from skipgraph.passes.forms import places_within, selected
from skipgraph.passes.fx_calls import SIZED, by_parameter, resized
from skipgraph.passes.fx_looks import FxLooks
from skipgraph.passes.surgery import Surgery, stretch


class FxCuts(FxLooks):
    """Puts parts of calls into one graph of a captured model.

    Parameters
    ----------
    captured, graph, surgery, drawing : Captured, torch.fx.Graph, Surgery, SkipGraph
        See `FxLooks`.
    """

    def __init__(self, captured: Captured, graph: ScopedGraph, surgery: Surgery, drawing: SkipGraph) -> None:
        super().__init__(captured, graph, surgery, drawing)
        self.made: set[fx.Node] = set()  # all calls that edits have put in
        self.adds: set[fx.Node] = set()  # those among them that add up the products of a split layer
        self._fresh: set[fx.Node] = set()  # parts that nobody else knows of, and that may be written over

    def _opened(self, call: str, *, contracts: bool) -> fx.Node:
        """A call that can be taken apart: of a function, where others read the layer's tensors as well."""
        node: fx.Node = self._nodes[call]
        path = str(node.target)
        if node.op != "call_module" or self._shared(path) is None:
            return node
        module = self.captured.get_submodule(path)
        known, cut = function_of_module(module), cut_of_module(module, contracts=contracts)
        if known is None or cut is None or not cut.tensors:  # nothing to cut in it
            return node
        function, given = known
        with self._at(node):
            tensors = {
                name: self._tensor(f"{path}.{name}", value)
                for name, value in given.items()
                if isinstance(value, torch.Tensor)
            }
            made: fx.Node = self.graph.call_function(function, (node.args[0], *{**given, **tensors}.values()))
        made.meta.update(node.meta)
        node.replace_all_uses_with(made)
        self.graph.erase_node(node)
        self._know(made, made.meta["shape"])
        self._nodes[call] = made
        return made

    def _tensor(self, path: str, tensor: torch.Tensor) -> fx.Node:
        node: fx.Node = self.graph.get_attr(path)
        self._know(node, tuple(tensor.shape))
        return node

    def _cut_call(
        self, node: fx.Node, of: Parts, before: Channels, after: Channels, *, contracts: bool
    ) -> tuple[list[Any], Callable[[int], tuple[tuple[Any, ...], dict[str, Any]]]]:
        """The targets of a call's parts, and the arguments of each by its number."""
        count = len(before.widths)
        if node.op == "call_module":
            path = str(node.target)
            cut = self._cut_of(path, contracts=contracts)
            assert cut is not None
            targets: list[Any] = self.surgery.cut(path, cut, before.widths) if cut.tensors else [path] * count
            return targets, lambda number: self._given(node, of, number)
        known = cut_of_function(node.target, contracts=contracts)
        if known is not None and known[0].selects:
            return [selected] * count, lambda number: self._selecting(node, of, number, *known, before)
        if known is not None:
            cut, names = known
            return [node.target] * count, lambda number: self._sliced(node, of, number, cut, names, before.widths)
        return [node.target] * count, lambda number: self._broadcast(node, of, number, after)

    def _given(self, node: fx.Node, of: Parts, number: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with the operands' parts in the place of the operands."""

        def part(argument: fx.Node) -> fx.Node:
            return self._nodes[of[argument.name][number]] if argument.name in of else argument

        return fx.map_arg(node.args, part), fx.map_arg(node.kwargs, part)

    def _sliced(
        self, node: fx.Node, of: Parts, number: int, cut: Cut, names: tuple[str, ...], widths: Sequence[int]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a function of torch.nn whose weights are cut as those of its layer are."""
        args, kwargs = self._given(node, of, number)
        given = by_parameter(names, args, kwargs)
        for name, value in given.items():
            if name in cut.once and number:
                given[name] = None
            elif name in cut.counts:
                given[name] = value * widths[number] // sum(widths)
            elif name in cut.tensors and isinstance(value, fx.Node) and value.meta["shape"][cut.tensors[name]] > 1:
                given[name] = self._narrow(value, cut.tensors[name], *self._stretch(value, cut, name, number, widths))
        return tuple(given[name] for name in names[: len(args)]), {name: given[name] for name in kwargs}

    def _selecting(
        self, node: fx.Node, of: Parts, number: int, cut: Cut, names: tuple[str, ...], before: Channels
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of `selected` for one operand: the places of others' channels are those of zeros."""
        args, kwargs = self._given(node, of, number)
        given = by_parameter(names, args, kwargs)
        start, index = sum(before.widths[:number]), given[cut.selects]
        places = self.graph.call_function(places_within, (index, start, before.widths[number]))
        self._know(places, index.meta["shape"])
        return (given[names[0]], before.axis, places), {}

    def _stretch(self, value: fx.Node, cut: Cut, name: str, number: int, widths: Sequence[int]) -> tuple[int, int]:
        return stretch(value.meta["shape"][cut.tensors[name]], number, widths)

    def _broadcast(
        self, node: fx.Node, of: Parts, number: int, after: Channels
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of any other call: other tensors are cut where they are broadcast along the channels."""
        rank, total = len(node.meta.get("shape", ())), sum(after.widths)
        start, length = stretch(total, number, after.widths)

        def aligned(argument: fx.Node) -> fx.Node:
            if argument.name in of:
                part: fx.Node = self._nodes[of[argument.name][number]]
                return part
            shape = argument.meta.get("shape", ())
            axis = after.axis - rank + len(shape)
            if not shape or axis < 0 or shape[axis] != total or total == 1:
                return argument
            return self._narrow(argument, axis, start, length)

        args, kwargs = fx.map_arg(node.args, aligned), fx.map_arg(node.kwargs, aligned)
        if node.target in SIZED:
            args = resized(args, after.axis, length)
        return args, kwargs

    def _narrow(self, tensor: fx.Node, axis: int, start: int, length: int) -> fx.Node:
        shape = tensor.meta["shape"]
        axis %= len(shape)
        node = self.graph.call_method("narrow", (tensor, axis, start, length))
        self._know(node, (*shape[:axis], length, *shape[axis + 1 :]))
        return node

    # -- nodes -------------------------------------------------------------------------------------------------------

    @contextmanager
    def _at(self, node: fx.Node) -> Iterator[None]:
        outside = self.graph.scope
        self.graph.scope = node.meta.get("scope", ())
        try:
            with self.graph.inserting_before(node):
                yield
        finally:
            self.graph.scope = outside

    def _copy(
        self, node: fx.Node, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], shape: tuple[int, ...] | None
    ) -> fx.Node:
        made = self.graph.create_node(node.op if isinstance(target, str) else "call_function", target, args, kwargs)
        made.meta.update(node.meta)  # what it was copied from
        self._know(made, shape)
        return made

    def _know(self, node: fx.Node, shape: tuple[int, ...] | None) -> None:
        if shape is not None:
            node.meta["shape"] = shape
        self._nodes[node.name] = node
        self.made.add(node)
