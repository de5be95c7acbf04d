"""The edits of `skipgraph.passes.edit`, on the graph of a captured model."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

import torch
from torch import fx
from torch.nn.utils.parametrize import is_parametrized

from skipgraph.capture import Captured, ScopedGraph
from skipgraph.graph import SkipGraph
from skipgraph.ops.cuts import Cut, cut_of_function, cut_of_module, function_of_module, is_idle
from skipgraph.passes.channels import Channels
from skipgraph.passes.edit import Parts, Product, Step
from skipgraph.passes.factors import Window
from skipgraph.passes.fx_products import merge_obstacle, merged
from skipgraph.passes.surgery import Surgery, stretch

_IN_PLACE = {operator.iadd, operator.isub, operator.imul, operator.itruediv}
_BINARY = {
    operator.add, operator.sub, operator.mul, operator.truediv, *_IN_PLACE, torch.add, torch.sub, torch.mul, torch.div,
    torch.multiply, torch.subtract,
    "add", "sub", "mul", "div", "add_", "sub_", "mul_", "div_",
}  # fmt: skip
CONCATS = (torch.cat, torch.concat, torch.concatenate)
_SUMS = {operator.add, operator.iadd, torch.add, "add", "add_"}
_SIZED = {"view", "reshape", "expand", torch.reshape}  # calls that name the sizes of their result
_VIEWS_OR_COPIES = {"reshape", "flatten", "contiguous", "to", "float", "type_as", torch.reshape, torch.flatten}
_ASKING = {"size", "dim", "numel", "stride"}
_ASKED = {"shape", "device", "dtype", "ndim", "is_cuda"}


class FxEdits:
    """Edits one graph of a captured model, in place.

    Parameters
    ----------
    captured : Captured
        The owner of the graph.
    graph : torch.fx.Graph
        Its nodes carry the shapes of their tensors in ``meta["shape"]``.
    surgery : Surgery
        Cuts the layers of the owner; shared by the graphs of both modes.
    drawing : SkipGraph
        The graph of its operators before any edit.
    """

    def __init__(self, captured: Captured, graph: ScopedGraph, surgery: Surgery, drawing: SkipGraph) -> None:
        self.captured = captured
        self.graph = graph
        self.surgery = surgery
        self._nodes = {node.name: node for node in graph.nodes}
        self.made: set[fx.Node] = set()  # all calls that edits have put in
        self.adds: set[fx.Node] = set()  # those among them that add up the products of a split layer
        self._fresh: set[fx.Node] = set()  # parts that nobody else knows of, and that may be written over
        self._allocating = {one["site"] for _, one in drawing.nodes(data=True) if not one.get("is_view")}
        self._calls: Counter[str] = Counter()  # the most in either mode
        for one in captured.unlike_graphs():
            self._calls |= Counter(str(node.target) for node in one.nodes if node.op == "call_module")
        self._name_versions()

    def _name_versions(self) -> None:
        """Let what reads a tensor after it was written over read what the writing call returns: the same tensor."""
        order = {node: place for place, node in enumerate(self.graph.nodes)}
        for node in list(order):
            if "shape" not in node.meta or not node.args or not _writes(self.captured, node):
                continue
            target = node.args[0]
            if isinstance(target, fx.Node) and target.meta.get("shape") == node.meta["shape"]:
                for user in list(target.users):
                    if order[user] > order[node]:
                        user.replace_input_with(target, node)

    # -- looking -----------------------------------------------------------------------------------------------------

    def operands(self, concat: str) -> list[str]:
        """The tensors that a concat joins, in order."""
        return [node.name for node in joined(self._nodes[concat])]

    def axis(self, concat: str) -> int:
        """The axis that a concat joins along, counted from the front."""
        return axis_of(self._nodes[concat])

    def scope(self, call: str) -> tuple[tuple[str, int], ...]:
        """The calls of modules that a call is made in, outermost first."""
        scope: tuple[tuple[str, int], ...] = self._nodes[call].meta.get("scope", ())
        return scope

    def shape(self, call: str) -> tuple[int, ...]:
        """The shape of what a call makes."""
        shape: tuple[int, ...] = self._nodes[call].meta["shape"]
        return shape

    def is_concat(self, call: str) -> bool:
        """Whether a call is a plain concat, whose operands can be changed."""
        node = self._nodes.get(call)
        return node is not None and node.target in CONCATS

    def path(self, call: str | None) -> str | None:
        """The path of the module that a call calls; None if it calls none."""
        node = self._nodes[call] if call is not None else None
        return str(node.target) if node is not None and node.op == "call_module" else None

    def intact(self, call: str) -> bool:
        """Whether a call is as it was: no edit has put another one in its place."""
        return call in self._nodes and self._nodes[call].name == call

    def obstacle(self, call: str, carried: Sequence[str], *, contracts: bool) -> str | None:
        """Why a call cannot be taken apart although its operators allow it; None if it can."""
        node = self._nodes[call]
        if "shape" not in node.meta:
            return f"{call} ({_name(node)}) makes several tensors"
        if node.op == "call_module":
            return self._module_obstacle(node, contracts=contracts)
        if _writes(self.captured, node) and node.all_input_nodes[0].op == "get_attr":
            return f"{call} ({_name(node)}) writes over {node.all_input_nodes[0].target}"
        others = [one for one in node.all_input_nodes if one.name not in carried and "shape" in one.meta]
        known = cut_of_function(_function(node), contracts=contracts)
        if contracts:
            if known is None:
                return f"{call} ({_name(node)}) is no call whose weight can be split"
            return None
        if known is None and others and _function(node) not in _BINARY:
            return f"{call} ({_name(node)}) reads another tensor beside the concatenated channels"
        return None

    def _module_obstacle(self, node: fx.Node, *, contracts: bool) -> str | None:
        path = str(node.target)
        if path in self.surgery.cuts:  # by the graph of the other mode
            return None
        module = self.captured.get_submodule(path)
        cut = cut_of_module(module, contracts=contracts)
        if cut is None and is_parametrized(module):
            return self.surgery.obstacle(path)
        if cut is None:
            return f"{path} ({type(module).__name__}) is no layer that can be cut"
        if not cut.tensors:
            return None
        shared = self._shared(path)
        if shared is not None and (function_of_module(module) is None or len(node.args) != 1 or node.kwargs):
            return shared
        return self.surgery.obstacle(path)

    def _shared(self, path: str) -> str | None:
        """Who else reads the tensors of a layer, in one sentence; None if nobody does, and they can be cut."""
        if path in self.surgery.cuts:
            return None
        if self._calls[path] > 1:
            return f"{path} is called {self._calls[path]} times, with one and the same weight"
        return self.surgery.tied(path)

    def straddled(self, call: str, before: Channels) -> int | None:
        """The first border of the operands that falls into a group of the call's channels; None if there is none."""
        groups = self._groups(self._nodes[call])
        size = sum(before.widths) // groups
        return next((border for border in accumulate(before.widths) if border % size), None) if groups > 1 else None

    def _groups(self, node: fx.Node) -> int:
        if node.op == "call_module":
            module = self.captured.get_submodule(str(node.target))
            return int(getattr(module, "groups", getattr(module, "num_groups", 1)))
        known = cut_of_function(_function(node), contracts=False)
        if known is None:
            return 1
        given: dict[str, Any] = {**dict(zip(known[1], node.args, strict=False)), **node.kwargs}
        return next((int(given[name]) for name in ("groups", "num_groups") if name in given), 1)

    def handed_on(self, call: str) -> list[str]:
        """Calls that hand on what ``call`` makes as it is, as dropout does in evaluation."""
        node = self._nodes[call]
        return [
            user.name
            for user in node.users
            if user.args[:1] == (node,)
            and is_idle(self.captured.get_submodule(str(user.target)) if user.op == "call_module" else user.target)
        ]

    def reads(self, call: str) -> list[str]:
        """The calls that ``call`` reads."""
        return [node.name for node in self._nodes[call].all_input_nodes]

    def other_readers(self, call: str, readers: Sequence[str]) -> list[str]:
        """Calls that read what ``call`` makes, ``readers`` and such as ask for its sizes alone left out."""
        return [user.name for user in self._nodes[call].users if user.name not in readers and not _asks(user)]

    def description(self, step: Step) -> dict[str, Any]:
        """Fields of a `StepRecord` by which the parts of a call are found again."""
        node = self._nodes[step.call]
        contracts = step.law == "split"
        given = inputs_of(node)
        place = {
            "arguments": tuple(given.index(self._nodes[read]) for read in step.reads),
            "in_place": _writes(self.captured, node),
        }
        if node.op == "call_module":
            path = str(node.target)
            cut = cut_of_module(self.captured.get_submodule(path), contracts=contracts)
            if path not in self.surgery.cuts and (cut is None or not cut.tensors):
                return place
            called = function_of_module(self.captured.get_submodule(path)) if self._shared(path) else None
            function = {"function": called[0], "weight": f"{path}.weight"} if called else {}
            return {"module": path, **place, **function}
        known = cut_of_function(_function(node), contracts=contracts)
        weight = (dict(zip(known[1], node.args, strict=False)) | node.kwargs if known else {}).get("weight")
        return {
            "function": _function(node),
            "weight": str(weight.target) if isinstance(weight, fx.Node) and weight.op == "get_attr" else None,
            "size_place": step.after.axis if _function(node) in _SIZED else None,
            **place,
        }

    # -- laws 2 and 3 ------------------------------------------------------------------------------------------------

    def parts(self, call: str, of: Parts, before: Channels, after: Channels) -> list[str]:
        """A channel-wise call on each operand alone, with its slices of all tensors."""
        node = self._opened(call)
        total = node.meta["shape"]
        made = []
        with self._at(node):
            targets, arguments = self._cut_call(node, of, before, after, contracts=False)
            for number, width in enumerate(after.widths):
                args, kwargs = arguments(number)
                if _writes(self.captured, node):
                    args, kwargs = self._spared(node, of, args, kwargs)
                shape = (*total[: after.axis], width, *total[after.axis + 1 :])
                made.append(self._copy(node, targets[number], args, kwargs, shape))
                if self._is_new(node, [(name, self._nodes[parts[number]]) for name, parts in of.items()], made[-1]):
                    self._fresh.add(made[-1])
        return [part.name for part in made]

    def summands(self, call: str, of: Parts, before: Channels) -> list[str]:
        """A linear layer on each operand alone; the first has the bias."""
        node = self._opened(call)
        with self._at(node):
            targets, arguments = self._cut_call(node, of, before, before, contracts=True)
            made = [
                self._copy(node, targets[number], *arguments(number), node.meta["shape"])
                for number in range(len(before.widths))
            ]
        self._fresh.update(made)
        return [part.name for part in made]

    def _opened(self, call: str) -> fx.Node:
        """A call that can be taken apart: of a function, where others read the layer's tensors as well."""
        node: fx.Node = self._nodes[call]
        path = str(node.target)
        if node.op != "call_module" or self._shared(path) is None:
            return node
        known = function_of_module(self.captured.get_submodule(path))
        if known is None:  # nothing to cut in it
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
            cut = (
                cut_of_module(self.captured.get_submodule(path), contracts=contracts)
                if path not in (self.surgery.cuts)
                else self.surgery.cuts[path][0]
            )
            assert cut is not None
            targets: list[Any] = self.surgery.cut(path, cut, before.widths) if cut.tensors else [path] * count
            return targets, lambda number: self._given(node, of, number)
        known = cut_of_function(_function(node), contracts=contracts)
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
        given = dict(zip(names, args, strict=False)) | kwargs
        for name, value in given.items():
            if name in cut.once and number:
                given[name] = None
            elif name in cut.counts:
                given[name] = value * widths[number] // sum(widths)
            elif name in cut.tensors and isinstance(value, fx.Node):
                given[name] = self._narrow(value, cut.tensors[name], *self._stretch(value, cut, name, number, widths))
        return tuple(given[name] for name in names[: len(args)]), {name: given[name] for name in kwargs}

    def _stretch(self, value: fx.Node, cut: Cut, name: str, number: int, widths: Sequence[int]) -> tuple[int, int]:
        return stretch(value.meta["shape"][cut.tensors[name]], number, widths)

    def _broadcast(
        self, node: fx.Node, of: Parts, number: int, after: Channels
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of any other call: other tensors are cut where they are broadcast along the channels."""
        rank, total = len(node.meta["shape"]), sum(after.widths)
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
        if _function(node) in _SIZED:
            args = _resized(args, after.axis, length)
        return args, kwargs

    def _narrow(self, tensor: fx.Node, axis: int, start: int, length: int) -> fx.Node:
        shape = tensor.meta["shape"]
        axis %= len(shape)
        node = self.graph.call_method("narrow", (tensor, axis, start, length))
        self._know(node, (*shape[:axis], length, *shape[axis + 1 :]))
        return node

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
        if node.name in self._allocating and _function(node) not in _VIEWS_OR_COPIES:
            return True
        return all(self._may_write(source, self._nodes[name], {node, part}) for name, source in sources)

    def _may_write(self, target: fx.Node, whole: fx.Node, readers: set[fx.Node]) -> bool:
        """Whether none but ``readers`` reads a part, or the concat ``whole`` that it is a part of."""
        asked = {user for user in (*target.users, *whole.users) if user is not whole and not _asks(user)}
        return target in self._fresh and asked <= readers

    # -- law 4 -------------------------------------------------------------------------------------------------------

    def is_sum(self, call: str) -> bool:
        """Whether a call adds two tensors, and does nothing else."""
        return plain_sum(self._nodes[call])

    def terms(self, total: str, adds: Sequence[str]) -> list[str]:
        """The calls that a sum of several calls adds up, in order."""
        return [
            term
            for node in self._nodes[total].args
            for term in (self.terms(node.name, adds) if node.name in adds else [node.name])
        ]

    def merge_obstacle(self, layer: str, norm: str | None) -> str | None:
        """Why a layer cannot become a part of a larger one; None if it can."""
        return merge_obstacle(self.captured, self._nodes[layer], self._nodes[norm] if norm else None)

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
        shape = list(nodes[0].meta["shape"])
        shape[axis] = sum(node.meta["shape"][axis] for node in nodes)
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
        self._sweep(node)
        self._nodes[old] = self._nodes[new]

    def _sweep(self, node: fx.Node) -> None:
        """Take out a node that nobody reads any more, and the calls that it alone was there for."""
        inputs = node.all_input_nodes
        self.graph.erase_node(node)
        self._nodes.pop(node.name, None)
        self.made.discard(node)
        for one in inputs:
            if not one.users and not one._erased and one.op != "placeholder":
                self._sweep(one)

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
            if beside and not any(_writes(self.captured, reader) for reader in readers):
                self.replace(node.name, operand.name)

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
        self, node: fx.Node, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], shape: tuple[int, ...]
    ) -> fx.Node:
        made = self.graph.create_node(node.op, target, args, kwargs)
        made.meta.update(node.meta)  # what it was copied from
        self._know(made, shape)
        return made

    def _know(self, node: fx.Node, shape: tuple[int, ...]) -> None:
        node.meta["shape"] = shape
        self._nodes[node.name] = node
        self.made.add(node)


def plain_sum(node: fx.Node) -> bool:
    """Whether a node adds two tensors, and does nothing else."""
    plain = node.target in _SUMS and len(node.args) == 2 and not node.kwargs
    return plain and all(isinstance(one, fx.Node) and "shape" in one.meta for one in node.args)


def joined(concat: fx.Node) -> list[fx.Node]:
    """The operands of a concat."""
    return list(concat.args[0] if concat.args else concat.kwargs["tensors"])  # type: ignore[arg-type]


def let_join(concat: fx.Node, operands: Sequence[fx.Node]) -> None:
    """Give a concat other operands."""
    if concat.args:
        concat.args = (list(operands), *concat.args[1:])
    else:
        concat.kwargs = {**concat.kwargs, "tensors": list(operands)}


def inputs_of(arguments: fx.Node | tuple[Any, Any]) -> list[fx.Node]:
    """The nodes among the arguments of a call, in order, repeated ones each time."""
    given = (arguments.args, arguments.kwargs) if isinstance(arguments, fx.Node) else arguments
    found: list[fx.Node] = []
    fx.map_arg(given, lambda one: found.append(one) or one)  # type: ignore[func-returns-value]
    return found


def axis_of(concat: fx.Node) -> int:
    """The axis that a concat joins along, counted from the front."""
    axis: Any = concat.args[1] if len(concat.args) > 1 else concat.kwargs.get("dim", concat.kwargs.get("axis", 0))
    return int(axis) % len(concat.meta["shape"])


def _function(node: fx.Node) -> Any:
    return node.target


def _name(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))


def _asks(node: fx.Node) -> bool:
    """Whether a call asks for a size, or another property that all operands of a concat share."""
    if node.op == "call_method":
        return node.target in _ASKING
    return node.target is getattr and node.args[1] in _ASKED


def _writes(captured: Captured, node: fx.Node) -> bool:
    """Whether a call writes over its first operand."""
    if node.op == "call_module":
        return bool(getattr(captured.get_submodule(str(node.target)), "inplace", False))
    if node.op == "call_method":
        return str(node.target).endswith("_") and not str(node.target).endswith("__")
    name = getattr(node.target, "__name__", "")
    return node.target in _IN_PLACE or node.kwargs.get("inplace") is True or name.endswith("_")


def _resized(args: Any, axis: int, length: int) -> tuple[Any, ...]:
    """The arguments of a view, reshape or expansion with another size along ``axis``."""
    tensor, *sizes = args
    nested = len(sizes) == 1 and isinstance(sizes[0], (list, tuple))
    wanted = list(sizes[0] if nested else sizes)
    if wanted[axis] != -1:
        wanted[axis] = length
    return (tensor, type(sizes[0])(wanted)) if nested else (tensor, *wanted)
