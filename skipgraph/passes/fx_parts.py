"""Where the parts of calls are that were taken apart, in a graph that has been rewritten since.

Parts of layers bear the layers' names, wherever the model went meanwhile (through a source file, say); those of
functions read slices of one weight, or the channels that one index names; others are found by what reads them.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any, NamedTuple

import torch
from torch import fx, nn
from torch.nn import functional as F

from skipgraph.capture import Captured
from skipgraph.errors import PlanError
from skipgraph.ops.cuts import cut_of_function
from skipgraph.passes.forms import places_within, selected
from skipgraph.passes.fx_calls import by_parameter, inputs_of, sweep
from skipgraph.passes.record import ConcatRecord, Record, StepRecord

CLONES = ("clone", torch.clone)
REMEDY = "Give the directory as it was emitted, or the plan that belongs to this model."
_ADDITIONS = {operator.add, operator.iadd, torch.add, "add", "add_"}


class _Owner(NamedTuple):
    """Whose slices the products of a function read: which function, a tensor of the model or what a call makes."""

    function: Any
    tensor: int | None
    call: fx.Node | None


class _Run(NamedTuple):
    """Products that are added up, by start and length of the slices that they read; how wide these are, of what width.

    ``of`` is None for selections: their index does not tell how many channels there are.
    """

    owner: _Owner
    products: dict[tuple[int, int], fx.Node]
    wide: int
    of: int | None


class Parts:
    """Finds the parts of the calls of one graph.

    Parameters
    ----------
    captured, graph : Captured, torch.fx.Graph
        The graph, and its owner.
    records : sequence of Record
        All sites that were rewritten in it.
    """

    def __init__(self, captured: Captured, graph: fx.Graph, records: Sequence[Record]) -> None:
        self._captured = captured
        self._modules: dict[str, list[fx.Node]] = {}
        for node in graph.nodes:
            if node.op == "call_module":
                self._modules.setdefault(str(node.target), []).append(node)
        split = [step for one in records if isinstance(one, ConcatRecord) for step in one.steps if _is_function(step)]
        self._turns: dict[tuple[Any, int | None], list[int]] = {}
        for step in split:
            self._turns.setdefault(self._weight_of(step), []).append(step.turn)
        self._products: dict[tuple[Any, int | None], list[list[fx.Node]]] = {}
        for run in _complete(graph, lambda node: self._run(node, {step.function for step in split})):
            products = [product for _, product in sorted(run.products.items())]
            self._products.setdefault(run.owner[:2], []).append(products)

    def of(self, record: ConcatRecord, restored: Mapping[str, fx.Node]) -> dict[int, list[fx.Node]]:
        """The parts of every step by its number; those of step 0 are the operands of the concat.

        Parameters
        ----------
        record : ConcatRecord
        restored : dict
            Sites that have been taken back -> their concats.

        Raises
        ------
        PlanError
            If the graph does not have what the record says.
        """
        parts: dict[int, list[fx.Node]] = {}
        count = len(record.widths)
        for number, step in reversed([*enumerate(record.steps, 1)]):
            if step.law == "split":
                parts[number] = self._of_layer(step, count)
            elif step.law == "flatten" and step.site in restored:
                joined = list(restored[step.site].args[0])  # type: ignore[arg-type]
                for read in step.reads:
                    parts.setdefault(read, joined[step.place : step.place + count])
            if number not in parts or step.law == "flatten":
                continue
            for place, read in enumerate(step.reads):
                parts.setdefault(read, [_read_by(part, step, place) for part in parts[number]])
        if 0 not in parts:
            raise PlanError(f"the operands of {record.id} are not found in the model", REMEDY)
        return parts

    def _of_layer(self, step: StepRecord, count: int) -> list[fx.Node]:
        """The products of a layer that was split."""
        if step.module is not None and step.function is None:
            found = [self._modules.get(f"{step.module}.{number}", []) for number in range(count)]
            if any(len(calls) != 1 for calls in found):
                raise PlanError(f"the model does not call all parts of {step.module} once", REMEDY)
            return [calls[0] for calls in found]
        weight = self._weight_of(step)
        place = sorted(self._turns[weight]).index(step.turn)
        products = self._products.get(weight, [])
        if len(products) != len(self._turns[weight]) or len(products[place]) != count:
            raise PlanError(f"the parts of {step.call} are not found in the model", REMEDY)
        return products[place]

    def _weight_of(self, step: StepRecord) -> tuple[Any, int | None]:
        """The function of a step and its weight, whatever name that is read by."""
        return step.function, None if step.weight is None else id(_attribute(self._captured, step.weight))

    def _run(self, node: fx.Node, functions: Set[Any]) -> _Run | None:
        """A product of a function with a slice of its weight, or a selection out of one operand."""
        if node.target is selected:
            index, start, width = node.args[2].args  # type: ignore[union-attr]
            return _Run(self._owner(torch.index_select, index), {(int(start), int(width)): node}, int(width), None)  # type: ignore[arg-type]
        weight = _sliced_weight(node) if node.target in functions else None
        if weight is None:
            return None
        _, axis, start, length = weight.args
        owner = self._owner(node.target, _bare(weight))
        shape = _bare(weight).meta["shape"] if owner.call else _attribute(self._captured, _path(weight)).shape
        return _Run(owner, {(int(start), int(length)): node}, int(length), shape[axis])  # type: ignore[arg-type]

    def _owner(self, function: Any, tensor: Any) -> _Owner:
        if tensor.op != "get_attr":
            return _Owner(function, None, tensor)
        return _Owner(function, id(_attribute(self._captured, str(tensor.target))), None)


def sum_of(terms: Sequence[fx.Node]) -> fx.Node:
    """The end of the additions that add up ``terms`` and nothing else.

    Raises
    ------
    PlanError
        If they are not added up.
    """
    pool = set(terms)  # what is not added up yet; one addition less than terms, in whatever order
    end = terms[0]
    for _ in terms[1:]:
        found = next((user for one in pool for user in one.users if _adds_two_of(user, pool)), None)
        if found is None:
            raise PlanError(f"the products from {terms[0].target} on are not added up", REMEDY)
        end = found
        pool = pool - set(inputs_of(end)) | {end}
    return end


def name_selections(graph: fx.Graph) -> None:
    """Put the calls of `selected` and `places_within` for what they do, as it comes out of a source."""
    for node in list(graph.nodes):
        written = _written_out(node)
        if written is not None:
            padded, axis, index, start, width = written
            with graph.inserting_before(node):
                places = graph.call_function(places_within, (index, start, width))
                made = graph.call_function(selected, (padded.args[0], axis, places))
            made.meta, places.meta = {**node.meta}, {**node.meta, "shape": (node.meta["shape"][axis],)}
            node.replace_all_uses_with(made)
            sweep(graph, node)


_PLACING = (torch.remainder, torch.clamp, torch.sub)  # as `places_within` calls them, the last first


def _written_out(node: fx.Node) -> tuple[fx.Node, Any, Any, Any, Any] | None:
    """The padded operand, the axis and the arguments of `places_within`, if a call selects as `selected` does."""
    if node.target is not torch.index_select or len(node.args) != 3:
        return None
    padded, axis, remainder = node.args
    chain = [remainder]
    for function in _PLACING:
        if not isinstance(chain[-1], fx.Node) or chain[-1].target is not function:
            return None
        chain.append(chain[-1].args[0])
    if not isinstance(padded, fx.Node) or padded.target is not F.pad:
        return None
    _, clamp, difference, index = chain
    return padded, axis, index, difference.args[1], clamp.args[2]  # type: ignore[union-attr]


def _complete(graph: fx.Graph, run_of: Any) -> Iterator[_Run]:
    """The runs of products that are added up, and are all of a weight's, in the order of their ends."""
    runs: dict[fx.Node, _Run] = {}  # a product or a sum -> what it adds up
    for node in graph.nodes:
        run = run_of(node)
        if run is not None:
            runs[node] = run
        elif _adds_two_of(node, runs.keys()):
            one, other = (runs[operand] for operand in inputs_of(node))
            if one.owner == other.owner and not one.products.keys() & other.products.keys():
                for operand in inputs_of(node):
                    del runs[operand]
                runs[node] = _Run(one.owner, one.products | other.products, one.wide + other.wide, one.of)
    for run in runs.values():
        if len(run.products) > 1 and run.of in (None, run.wide):
            yield run


def _sliced_weight(node: fx.Node) -> fx.Node | None:
    _, names = cut_of_function(node.target, contracts=True) or (None, ())
    weight = by_parameter(names, node.args, node.kwargs).get("weight")
    return weight if isinstance(weight, fx.Node) and weight.target == "narrow" else None


def _read_by(part: fx.Node, step: StepRecord, place: int) -> fx.Node:
    """What the part of a call reads as the operand of the step's ``reads[place]``."""
    given, at = inputs_of(part), step.arguments.index(place)
    if at >= len(given):
        raise PlanError(f"the parts of {step.call} are not found in the model", REMEDY)
    node = given[at]
    ours = step.in_place and at == 0 and len(node.users) == 1
    return node.all_input_nodes[0] if ours and node.target in CLONES else node


def _is_function(step: StepRecord) -> bool:
    return step.law == "split" and step.function is not None


def _attribute(owner: nn.Module, path: str) -> Any:
    """A tensor of a model by its path."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(owner.get_submodule(module), name)
    except AttributeError:
        raise PlanError(f"the model has no {path}", REMEDY) from None


def _adds_two_of(node: fx.Node, terms: Set[fx.Node]) -> bool:
    operands = inputs_of(node)
    return node.target in _ADDITIONS and len(operands) == len(set(operands)) == 2 and set(operands) <= terms


def _bare(tensor: Any) -> fx.Node:
    """What a narrowed tensor was narrowed from."""
    node = tensor
    while node.target == "narrow":
        node = node.args[0]
    return node  # type: ignore[no-any-return]


def _path(tensor: fx.Node) -> str:
    return str(_bare(tensor).target)
