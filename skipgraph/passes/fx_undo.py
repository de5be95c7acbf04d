"""The way back: laws 3, 2 and 1 from right to left, on a graph that was rewritten, with the weights that it has now.

Where the parts are that are put together again is told by `skipgraph.passes.fx_parts`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count as counted
from typing import Any

import torch
from torch import fx, nn

from skipgraph.capture import Captured
from skipgraph.errors import PlanError
from skipgraph.ops.cuts import cut_of_function, cut_of_module
from skipgraph.passes.channels import Channels
from skipgraph.passes.forms import selected
from skipgraph.passes.fx_calls import inputs_of, sweep
from skipgraph.passes.fx_parts import CLONES, REMEDY, Parts, name_selections, sum_of
from skipgraph.passes.fx_undo_sum import take_back_sum
from skipgraph.passes.record import ConcatRecord, Record, StepRecord, SumRecord
from skipgraph.passes.surgery import uncut


class Undoing:
    """Takes back the sites of one graph.

    Parameters
    ----------
    captured : Captured
        The owner; its cut layers are put together again when the first graph asks for them.
    graph : torch.fx.Graph
        Edited in place.
    """

    def __init__(self, captured: Captured, graph: fx.Graph, records: Sequence[Record] = ()) -> None:
        self.captured = captured
        self.graph = graph
        self.restored: dict[str, fx.Node] = {}  # site -> its concat
        self._copies: list[fx.Node] = []
        name_selections(graph)
        self._parts = Parts(captured, graph, records)

    def take_back(self, record: ConcatRecord) -> None:
        """Take back one site; later sites come first.

        Raises
        ------
        PlanError
            If the graph does not have what the record says.
        """
        parts = self._parts.of(record, self.restored)
        channels = Channels(record.axis, record.widths)
        whole: dict[int, fx.Node] = {0: self._concat(parts[0], channels, record.scope, self._reader(0, record, parts))}
        self.restored[record.id] = whole[0]
        for number, step in enumerate(record.steps, 1):
            if step.law == "flatten":
                self._nest(step, parts, whole)
                continue
            if step.law == "join" and number in parts:
                at = self._reader(number, record, parts)
                whole[number] = self._concat(parts[number], step.after, step.scope, at)
                self.restored[step.site] = whole[number]
                continue
            if number not in parts:  # nobody has read what it made
                if step.module is not None and step.function is None:
                    raise PlanError(f"no part of {step.call} of {record.id} is found in the model", REMEDY)
                continue
            end = sum_of(parts[number]) if step.law == "split" else None
            made = self._whole(step, parts, whole, parts[number], end or self._last(parts[number]))
            if end is not None:
                end.replace_all_uses_with(made)
                sweep(self.graph, end)
            whole[number] = made
        left = [part for number in sorted(parts, reverse=True) if number for part in parts[number]]
        for node in (*left, *whole.values()):
            if not node._erased and not node.users and node.op not in ("output", "placeholder"):
                sweep(self.graph, node)
        self._drop_copies()

    # -- places in the graph ------------------------------------------------------------------------------------------

    def _reader(self, number: int, record: ConcatRecord, parts: Mapping[int, list[fx.Node]]) -> fx.Node:
        """Where a concat stands: in front of the first that reads it.

        No earlier: what was written over in front of it, is by then.
        """
        readers = [self._last(parts[number]).next]
        for place, step in enumerate(record.steps, 1):
            if number not in step.reads:
                continue
            if step.law == "flatten":
                outer = self.restored.get(step.site) or self._joining(parts[number])
                readers += [outer] if outer is not None else []
            elif place in parts:
                readers.append(sum_of(parts[place]) if step.law == "split" else self._last(parts[place]))
        order = {node: place for place, node in enumerate(self.graph.nodes)}
        return min(readers[1:] or readers, key=order.__getitem__)

    def _last(self, nodes: Sequence[fx.Node]) -> fx.Node:
        """The one that runs last: operand by operand is not in the order of the operands."""
        order = {node: place for place, node in enumerate(self.graph.nodes)}
        return max(nodes, key=order.__getitem__)

    # -- laws from right to left -------------------------------------------------------------------------------------

    def _concat(
        self, operands: Sequence[fx.Node], channels: Channels, scope: tuple[tuple[str, int], ...], at: fx.Node
    ) -> fx.Node:
        axis, widths, _ = channels
        with self.graph.inserting_before(at):
            made = self.graph.call_function(torch.cat, (list(operands), axis))
        shape = list(operands[0].meta["shape"])
        shape[axis] = sum(widths)
        made.meta = {"shape": tuple(shape), "scope": scope}
        return made

    def _nest(self, step: StepRecord, parts: Mapping[int, list[fx.Node]], whole: Mapping[int, fx.Node]) -> None:
        """Law 1: ``cat(a, b, c) = cat(cat(a, b), c)``."""
        for read in step.reads:
            run = parts.get(read)
            if run is None or read not in whole:
                continue
            outer = self.restored.get(step.site) or self._joining(run)
            if outer is None:
                continue
            joined = list(outer.args[0])  # type: ignore[arg-type]
            for start in range(len(joined) - len(run) + 1):
                if joined[start : start + len(run)] == run:
                    outer.args = ([*joined[:start], whole[read], *joined[start + len(run) :]], *outer.args[1:])
                    break

    def _joining(self, run: Sequence[fx.Node]) -> fx.Node | None:
        for user in run[0].users:
            if user.target is torch.cat and len(user.args[0]) > len(run):  # type: ignore[arg-type]
                return user
        return None

    def _whole(
        self, step: StepRecord, parts: Mapping[int, list[fx.Node]], whole: Mapping[int, fx.Node],
        of: Sequence[fx.Node], at: fx.Node,
    ) -> fx.Node:  # fmt: skip
        """Laws 2 and 3: the call that ``of`` are the parts of, on the concats of what they read."""
        first = of[0]
        if first.target is selected:
            return self._selection(step, whole, of, at)
        if step.module is not None and step.function is not None:
            with self.graph.inserting_before(at):
                made = self.graph.call_module(step.module, (whole[step.reads[0]],))
            made.meta = {**at.meta}
            return made
        target: Any = first.target
        if first.op == "call_module" and step.module is not None:
            target = self._module(step.module, len(of), contracts=step.law == "split")
        others = inputs_of(of[1])
        places = counted()

        def joined(argument: fx.Node) -> fx.Node:
            place = next(places)
            read = step.arguments[place]
            other = others[place] if place < len(others) else None
            spared = step.in_place and place == 0 and argument.target in CLONES
            if spared:
                argument, other = argument.all_input_nodes[0], None
            sliced = argument.target == "narrow" and other is not argument  # each part another slice
            bare: Any = argument.args[0] if sliced else argument
            restored = whole[step.reads[read]] if read >= 0 else bare
            return self._copied(restored) if spared else restored

        with self.graph.inserting_before(at):
            args, kwargs = fx.map_arg(first.args, joined), fx.map_arg(first.kwargs, joined)
            args, kwargs = self._summed(step, of, args, kwargs)
            made = self.graph.create_node(first.op, target, args, kwargs)
        made.meta = {**at.meta}
        return made

    def _selection(self, step: StepRecord, whole: Mapping[int, fx.Node], of: Sequence[fx.Node], at: fx.Node) -> fx.Node:
        """The selection of which each operand's part is one of ``of``."""
        _, axis, places = of[0].args
        with self.graph.inserting_before(at):
            selecting = (whole[step.reads[0]], axis, places.args[0])  # type: ignore[union-attr]
            made: fx.Node = self.graph.call_function(torch.index_select, selecting)
        made.meta = {**at.meta}
        return made

    def _copied(self, tensor: fx.Node) -> fx.Node:
        """A copy of what is written over, for others may read it later than they did: the parts had copies."""
        copy: fx.Node = self.graph.call_method("clone", (tensor,))
        copy.meta = {**tensor.meta}
        self._copies.append(copy)
        return copy

    def _drop_copies(self) -> None:
        """Take out the copies of what nobody else reads."""
        for copy in self._copies:
            tensor = copy.all_input_nodes[0]
            if set(tensor.users) == {copy}:
                copy.replace_all_uses_with(tensor)
                self.graph.erase_node(copy)
        self._copies = []

    def _summed(self, step: StepRecord, of: Sequence[fx.Node], args: Any, kwargs: Any) -> tuple[Any, Any]:
        """Counts of channels and groups, and sizes, of the whole call."""
        known = cut_of_function(of[0].target, contracts=step.law == "split") if of[0].op == "call_function" else None
        names = known[1] if known else ()
        counts = known[0].counts if known else ()
        args = tuple(
            sum(part.args[place] for part in of) if place < len(names) and names[place] in counts else value
            for place, value in enumerate(args)
        )
        kwargs = {
            name: sum(part.kwargs[name] for part in of) if name in counts else value for name, value in kwargs.items()
        }
        if step.size_place is not None:
            flat = list(args[1]) if isinstance(args[1], (list, tuple)) else list(args[1:])
            if flat[step.size_place] != -1:
                flat[step.size_place] = sum(step.after.widths)
            args = (args[0], type(args[1])(flat)) if isinstance(args[1], (list, tuple)) else (args[0], *flat)
        return args, kwargs

    def _module(self, path: str, count: int, *, contracts: bool) -> str:
        """The path of a layer that is whole again."""
        module = self.captured.get_submodule(path)
        if isinstance(module, nn.ModuleList):
            parts = [self.captured.get_submodule(f"{path}.{number}") for number in range(count)]
            cut = cut_of_module(parts[0], contracts=contracts)
            assert cut is not None
            totals = {name: sum(getattr(part, name) for part in parts) for name in cut.counts}
            whole = uncut(parts, cut, totals)
            for name, one in [*self.captured.named_modules(remove_duplicate=False)]:
                if one is module:
                    self.captured.set_submodule(name, whole)
        return path


def undo(model: Captured, records: Mapping[bool, Sequence[Record]]) -> Captured:
    """The original of a rewritten model, from the weights that it has now; ``model`` is left as it is.

    Raises
    ------
    PlanError
        If the model does not have what ``records`` say.
    """
    new = model.copy()
    done: set[int] = set()
    for training, graph in new.graphs.items():
        if id(graph) in done:
            continue
        done.add(id(graph))
        undoing = Undoing(new, graph, records[training])
        for record in reversed(records[training]):
            if isinstance(record, SumRecord):
                take_back_sum(undoing, record)
            else:
                undoing.take_back(record)
        try:
            graph.lint()
        except (RuntimeError, AttributeError) as error:
            raise PlanError(f"the model is not what the plan has made: {error}", REMEDY) from error
    new.recompile()
    return new
