"""The edits of `skipgraph.passes.edit`, on the graph of a captured model."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from skipgraph.passes.channels import Channels
from skipgraph.passes.edit import Parts, Product
from skipgraph.passes.factors import Window
from skipgraph.passes.fx_calls import (
    CONCATS,
    asks,
    inputs_of,
    joined,
    let_join,
    may_view,
    sweep,
    writes,
)
from skipgraph.passes.fx_cuts import FxCuts
from skipgraph.passes.fx_products import merged


class FxEdits(FxCuts):
    """Edits one graph of a captured model, in place.

    Parameters
    ----------
    captured, graph, surgery, drawing : Captured, torch.fx.Graph, Surgery, SkipGraph
        See `FxLooks`.
    """

    # -- laws 2 and 3 ------------------------------------------------------------------------------------------------

    def parts(self, call: str, of: Parts, before: Channels, after: Channels) -> list[str]:
        """A channel-wise call on each operand alone, with its slices of all tensors."""
        node = self._opened(call, contracts=False)
        total = node.meta.get("shape")
        made = []
        with self._at(node):
            targets, arguments = self._cut_call(node, of, before, after, contracts=False)
            for number, width in enumerate(after.widths):
                args, kwargs = arguments(number)
                if writes(self.captured, node):
                    args, kwargs = self._spared(node, of, args, kwargs)
                shape = (*total[: after.axis], width, *total[after.axis + 1 :]) if total else None
                made.append(self._copy(node, targets[number], args, kwargs, shape))
                if self._is_new(node, [(name, self._nodes[parts[number]]) for name, parts in of.items()], made[-1]):
                    self._fresh.add(made[-1])
        return [part.name for part in made]

    def summands(self, call: str, of: Parts, before: Channels) -> list[str]:
        """A linear layer on each operand alone; the first has the bias."""
        node = self._opened(call, contracts=True)
        with self._at(node):
            targets, arguments = self._cut_call(node, of, before, before, contracts=True)
            made = [
                self._copy(node, targets[number], *arguments(number), node.meta["shape"])
                for number in range(len(before.widths))
            ]
        self._fresh.update(made)
        return [part.name for part in made]

    def _spared(
        self, node: fx.Node, of: Parts, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a call that writes over its operand: a copy of it where somebody else has it.

        What it writes over may be another tensor than the concat: nobody reads that afterwards (`concat_to_sum`).
        """
        whole, target = node.all_input_nodes[0], inputs_of((args, kwargs))[0]
        if whole.name in of and self._may_write(target, whole, {node}):
            return args, kwargs
        copy = self.graph.call_method("clone", (target,))
        self._know(copy, target.meta["shape"])

        def copied(argument: fx.Node) -> fx.Node:
            return copy if argument is target else argument

        return fx.map_arg(args, copied), fx.map_arg(kwargs, copied)

    def _is_new(self, node: fx.Node, sources: Sequence[tuple[str, fx.Node]], part: fx.Node) -> bool:
        """Whether nobody else has the memory of a part: it is no view, nor its operand, or of one such as well."""
        if node.name in self._allocating and not may_view(self.captured, node):
            return True
        return all(self._may_write(source, self._nodes[name], {node, part}) for name, source in sources)

    def _may_write(self, target: fx.Node, whole: fx.Node, readers: set[fx.Node]) -> bool:
        """Whether none but ``readers`` reads a part, or the concat ``whole`` that it is a part of."""
        asked = {user for user in (*target.users, *whole.users) if user is not whole and not asks(user)}
        return target in self._fresh and asked <= readers

    # -- law 4 -------------------------------------------------------------------------------------------------------

    def merged(self, products: Sequence[Product], window: Window, axis: int, at: str) -> str:
        """One layer on a concat of the products' operands, at the place of the call ``at``."""
        node = self._nodes[at]
        with self._at(node):
            pairs = [(product, self._nodes[product.operand]) for product in products]
            made = merged(self.captured, self.graph, pairs, window, axis)
        self._know(made, node.meta["shape"])
        return made.name

    # -- other edits -------------------------------------------------------------------------------------------------

    def concat(self, operands: Sequence[str], axis: int, at: str) -> str:
        """A concat, at the place of the call ``at``."""
        nodes = [self._nodes[name] for name in operands]
        with self._at(self._nodes[at]):
            made = self.graph.call_function(torch.cat, (nodes, axis))
        shapes = [node.meta.get("shape") for node in nodes]
        if None in shapes:  # parts of a split, whose stretches are joined one by one: it goes when all of them are
            self._know(made, None)
            return made.name
        shape = list(shapes[0])
        shape[axis] = sum(one[axis] for one in shapes)
        self._know(made, tuple(shape))
        return made.name

    def add(self, left: str, right: str, at: str) -> str:
        """A sum, at the place of the call ``at``."""
        with self._at(self._nodes[at]):
            made = self.graph.call_function(operator.add, (self._nodes[left], self._nodes[right]))
        self.adds.add(made)
        self._know(made, self._nodes[left].meta["shape"])
        return made.name

    def set_operands(self, concat: str, operands: Sequence[str]) -> None:
        """Let a concat join other tensors."""
        let_join(self._nodes[concat], [self._nodes[name] for name in operands])

    def replace(self, old: str, new: str) -> None:
        """Let all that reads ``old`` read ``new``, and take ``old`` out."""
        node = self._nodes[old]
        node.replace_all_uses_with(self._nodes[new])
        for gone in sweep(self.graph, node):
            self._nodes.pop(gone.name, None)
            self.made.discard(gone)
        self._nodes[old] = self._nodes[new]

    def erase(self, concat: str) -> None:
        """Take out a concat that nobody reads but for its sizes, which are then read off its operands."""
        node = self._nodes.get(concat)
        if node is None:  # gone with its last reader
            return
        first, axis = joined(node)[0], self.axis(concat)
        for user in list(node.users):
            if user.target == "size" and user.args[1:] == (axis,):
                self._sum_sizes(user, joined(node), axis)
            else:
                user.replace_input_with(node, first)
        del self._nodes[concat]
        self.graph.erase_node(node)

    def _sum_sizes(self, user: fx.Node, operands: list[fx.Node], axis: int) -> None:
        with self._at(user):
            total = self.graph.call_method("size", (operands[0], axis))
            for operand in operands[1:]:
                more = self.graph.call_method("size", (operand, axis))
                total = self.graph.call_function(operator.add, (total, more))
        user.replace_all_uses_with(total)
        self.graph.erase_node(user)

    def drop_single_concats(self) -> None:
        """Take out concats of one operand, which copy it, in front of what was taken apart beside them."""
        for node in list(self.graph.nodes):
            if node.target not in CONCATS or len(joined(node)) != 1:
                continue
            operand = joined(node)[0]
            readers = {*node.users, *operand.users} - {node}
            beside = any(reader in self.made for reader in operand.users)
            if beside and not any(writes(self.captured, reader) for reader in readers):
                self.replace(node.name, operand.name)
