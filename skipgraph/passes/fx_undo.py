"""The way back: laws 3, 2 and 1 from right to left, on a graph that was rewritten, with the weights that it has now.

Sites are found again by the layers that were cut, which bear their names wherever the model went meanwhile (through a
source file, say), and by what stands around them.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence, Set
from itertools import count as counted
from typing import Any

import torch
from torch import fx, nn

from skipgraph.capture import Captured
from skipgraph.errors import PlanError
from skipgraph.ops.cuts import cut_of_function, cut_of_module
from skipgraph.passes.channels import Channels
from skipgraph.passes.fx_calls import inputs_of
from skipgraph.passes.fx_undo_sum import take_back_sum
from skipgraph.passes.record import ConcatRecord, Record, StepRecord, SumRecord
from skipgraph.passes.surgery import uncut

_CLONES = ("clone", torch.clone)
_ADDITIONS = {operator.add, operator.iadd, torch.add, "add", "add_"}


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
        self._modules: dict[str, list[fx.Node]] = {}
        for node in graph.nodes:
            if node.op == "call_module":
                self._modules.setdefault(str(node.target), []).append(node)
        split = [step for one in records if isinstance(one, ConcatRecord) for step in one.steps if _is_function(step)]
        self._turns: dict[Any, list[int]] = {}
        for step in split:
            self._turns.setdefault(self._weight_of(step), []).append(step.turn)
        self._products = self._all_products({step.function for step in split})

    def take_back(self, record: ConcatRecord) -> None:
        """Take back one site; later sites come first.

        Raises
        ------
        PlanError
            If the graph does not have what the record says.
        """
        parts = self._located(record)
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
                    raise PlanError(f"no part of {step.call} of {record.id} is found in the model", _REMEDY)
                continue
            end = self._sum_of(parts[number]) if step.law == "split" else None
            made = self._whole(step, parts, whole, parts[number], end or self._last(parts[number]))
            if end is not None:
                end.replace_all_uses_with(made)
                self.sweep(end)
            whole[number] = made
        left = [part for number in sorted(parts, reverse=True) if number for part in parts[number]]
        for node in (*left, *whole.values()):
            if not node._erased and not node.users and node.op not in ("output", "placeholder"):
                self.sweep(node)
        self._drop_copies()

    # -- where the parts are -----------------------------------------------------------------------------------------

    def _located(self, record: ConcatRecord) -> dict[int, list[fx.Node]]:
        """The parts of every step by its number; those of step 0 are the operands of the concat."""
        parts: dict[int, list[fx.Node]] = {}
        count = len(record.widths)
        for number, step in reversed([*enumerate(record.steps, 1)]):
            if step.law == "split":
                parts[number] = self._layer_parts(step, count)
            elif step.law == "flatten" and step.site in self.restored:
                joined = list(self.restored[step.site].args[0])  # type: ignore[arg-type]
                for read in step.reads:
                    parts.setdefault(read, joined[step.place : step.place + count])
            if number not in parts or step.law == "flatten":
                continue
            for place, read in enumerate(step.reads):
                parts.setdefault(read, [self._data(part, step, place) for part in parts[number]])
        if 0 not in parts:
            raise PlanError(f"the operands of {record.id} are not found in the model", _REMEDY)
        return parts

    def _layer_parts(self, step: StepRecord, count: int) -> list[fx.Node]:
        """The products of a layer that was split."""
        if step.module is not None and step.function is None:
            found = [self._modules.get(f"{step.module}.{number}", []) for number in range(count)]
            if any(len(calls) != 1 for calls in found):
                raise PlanError(f"the model does not call all parts of {step.module} once", _REMEDY)
            return [calls[0] for calls in found]
        weight = self._weight_of(step)
        place = sorted(self._turns[weight]).index(step.turn)
        products = self._products.get(weight, [])
        if len(products) != len(self._turns[weight]) or len(products[place]) != count:
            raise PlanError(f"the parts of {step.call} are not found in the model", _REMEDY)
        return products[place]

    def _weight_of(self, step: StepRecord) -> Any:
        """The function of a step and its weight, whatever name that is read by."""
        return step.function, None if step.weight is None else id(_attribute(self.captured, step.weight))

    def _all_products(self, functions: Set[Any]) -> dict[Any, list[list[fx.Node]]]:
        """The products of functions with all slices of a weight, for each call that was split, in order."""
        added: dict[fx.Node, tuple[Any, dict[int, fx.Node], int]] = {}  # products, sums -> weight, by slice, how wide
        complete: dict[Any, list[list[fx.Node]]] = {}
        for node in self.graph.nodes:
            weight = self._sliced_weight(node) if node.target in functions else None
            if weight is not None:
                bare, (_, axis, start, length) = _bare(weight), weight.args
                tensor = _attribute(self.captured, str(bare.target)) if bare.op == "get_attr" else None
                shape = bare.meta["shape"] if tensor is None else tensor.shape
                key = (node.target, None if tensor is None else id(tensor)), bare if tensor is None else None
                added[node] = (*key, shape[axis]), {int(start): node}, int(length)  # type: ignore[arg-type]
            elif _adds_two_of(node, added.keys()):
                (one, left, wide), (other, right, more) = (added[operand] for operand in inputs_of(node))
                if one == other and not left.keys() & right.keys():
                    added[node] = one, left | right, wide + more
                    if wide + more == one[-1]:
                        complete.setdefault(one[0], []).append([part for _, part in sorted(added[node][1].items())])
        return complete

    def _sliced_weight(self, node: fx.Node) -> fx.Node | None:
        _, names = cut_of_function(node.target, contracts=True) or (None, ())
        weight = dict(zip(names, node.args, strict=False)).get("weight", node.kwargs.get("weight"))
        return weight if isinstance(weight, fx.Node) and weight.target == "narrow" else None

    def _data(self, part: fx.Node, step: StepRecord, place: int) -> fx.Node:
        given, at = inputs_of(part), step.arguments.index(place)
        if at >= len(given):
            raise PlanError(f"the parts of {step.call} are not found in the model", _REMEDY)
        node = given[at]
        ours = step.in_place and at == 0 and len(node.users) == 1
        return node.all_input_nodes[0] if ours and node.target in _CLONES else node

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
                readers.append(self._sum_of(parts[place]) if step.law == "split" else self._last(parts[place]))
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
        axis, widths = channels
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
            spared = step.in_place and place == 0 and argument.target in _CLONES
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

    def _sum_of(self, terms: Sequence[fx.Node]) -> fx.Node:
        """The end of the additions that add up ``terms`` and nothing else."""
        pool = set(terms)  # what is not added up yet; one addition less than terms, in whatever order
        end = terms[0]
        for _ in terms[1:]:
            found = next((user for one in pool for user in one.users if _adds_two_of(user, pool)), None)
            if found is None:
                raise PlanError(f"the products from {terms[0].target} on are not added up", _REMEDY)
            end = found
            pool = pool - set(inputs_of(end)) | {end}
        return end

    def sweep(self, node: fx.Node) -> None:
        """Take out a node that nobody reads, and what it alone was there for."""
        inputs = node.all_input_nodes
        self.graph.erase_node(node)
        for one in inputs:
            if not one.users and not one._erased and one.op != "placeholder":
                self.sweep(one)


_REMEDY = "Give the directory as it was emitted, or the plan that belongs to this model."


def _is_function(step: StepRecord) -> bool:
    return step.law == "split" and step.function is not None


def _attribute(owner: nn.Module, path: str) -> Any:
    """A tensor of a model by its path."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(owner.get_submodule(module), name)
    except AttributeError:
        raise PlanError(f"the model has no {path}", _REMEDY) from None


def _adds_two_of(node: fx.Node, terms: Set[fx.Node]) -> bool:
    operands = inputs_of(node)
    return node.target in _ADDITIONS and len(operands) == len(set(operands)) == 2 and set(operands) <= terms


def _bare(tensor: Any) -> fx.Node:
    """What a narrowed tensor was narrowed from."""
    node = tensor
    while node.target == "narrow":
        node = node.args[0]
    return node  # type: ignore[no-any-return]


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
            raise PlanError(f"the model is not what the plan has made: {error}", _REMEDY) from error
    new.recompile()
    return new
