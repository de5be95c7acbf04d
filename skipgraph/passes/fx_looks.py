"""What `skipgraph.passes.edit` asks of the graph of a captured model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import fx, nn
from torch.nn.utils.parametrize import is_parametrized

from skipgraph.capture import Captured, ScopedGraph
from skipgraph.graph import SkipGraph
from skipgraph.ops.cuts import Cut, cut_of_function, cut_of_module, function_of_module, is_idle
from skipgraph.passes.channels import Channels
from skipgraph.passes.edit import Step
from skipgraph.passes.fx_calls import (
    BINARY,
    CONCATS,
    SIZED,
    UNFLATTENS,
    asks,
    axis_of,
    by_parameter,
    inputs_of,
    is_split,
    joined,
    leaves,
    name_of,
    place_sizes,
    plain_sum,
    sizes_of,
    writes,
)
from skipgraph.passes.fx_contexts import contexts
from skipgraph.passes.fx_products import merge_obstacle
from skipgraph.passes.surgery import Surgery

_LASTING = ("get_attr", "placeholder")


class FxLooks:
    """Looks at one graph of a captured model.

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
        self._turns = {node.name: turn for turn, node in enumerate(graph.nodes)}
        self._allocating = {one["site"] for _, one in drawing.nodes(data=True) if not one.get("is_view")}
        self._calls: Counter[str] = Counter()  # the most in either mode
        self._read: set[str] = set()  # modules whose tensors are read beside their calls
        for one in captured.unlike_graphs():
            self._calls |= Counter(str(node.target) for node in one.nodes if node.op == "call_module")
            self._read |= {str(node.target).rpartition(".")[0] for node in one.nodes if node.op == "get_attr"}
        self._contexts = contexts(graph)
        for node in graph.nodes:
            if node.target in SIZED:
                place_sizes(node)
        self._name_versions()

    def _name_versions(self) -> None:
        """Let what reads a tensor after it was written over read what the writing call returns: the same tensor."""
        order = {node: place for place, node in enumerate(self.graph.nodes)}
        for node in list(order):
            if "shape" not in node.meta or not node.args or not writes(self.captured, node):
                continue
            target = node.args[0]
            if isinstance(target, fx.Node) and target.meta.get("shape") == node.meta["shape"]:
                for user in list(target.users):
                    if order[user] > order[node]:
                        user.replace_input_with(target, node)

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

    def context(self, call: str) -> Hashable:
        """What a call runs under."""
        return self._contexts.get(self._nodes[call])

    def obstacle(self, step: Step) -> str | None:
        """Why a call cannot be taken apart although its operators allow it; None if it can."""
        call, contracts = step.call, step.law == "split"
        node = self._nodes[call]
        if "out" in node.kwargs:
            return f"{call} ({name_of(node)}) writes into a tensor that it is given"
        if not contracts and self._misplaced(node, step):
            return f"{call} ({name_of(node)}) reads channels along axis 1, and theirs is {step.before.axis}"
        if self._moves(node, step):
            return f"{call} ({name_of(node)}) folds the channels by sizes that are those of all operands"
        if is_split(node):
            return None
        if "shape" not in node.meta:
            return f"{call} ({name_of(node)}) makes several tensors"
        if node.op == "call_module":
            return self._module_obstacle(node, contracts=contracts)
        if writes(self.captured, node) and (source := self._source(node.all_input_nodes[0])).op in _LASTING:
            return f"{call} ({name_of(node)}) writes over {source.target}, which is not the forward's own"
        others = [one for one in node.all_input_nodes if one.name not in step.reads and "shape" in one.meta]
        known = cut_of_function(node.target, contracts=contracts)
        if contracts:
            if known is None:
                return f"{call} ({name_of(node)}) is no call whose weight can be split"
            return None
        if known is None and others and node.target not in BINARY:
            return f"{call} ({name_of(node)}) reads another tensor beside the concatenated channels"
        return None

    def _misplaced(self, node: fx.Node, step: Step) -> bool:
        """Whether a call has a number for each channel, of which it finds the axis itself."""
        if node.op == "call_module":
            cut = self._cut_of(str(node.target), contracts=False)
        else:
            cut = (cut_of_function(node.target, contracts=False) or (None,))[0]
        return cut is not None and bool(cut.tensors) and step.before.axis != 1

    def _cut_of(self, path: str, *, contracts: bool) -> Cut | None:
        """How a layer is cut, or was by the graph of the other mode."""
        known = self.surgery.cuts.get(path)
        return known[0] if known else cut_of_module(self.captured.get_submodule(path), contracts=contracts)

    def _moves(self, node: fx.Node, step: Step) -> bool:
        """Whether a call folds channels by a size that is not that of the parts, nor can be changed into it.

        With one sample a batch may be folded into the channels without a trace: its size is none of theirs.
        """
        if node.op == "call_module":
            module = self.captured.get_submodule(str(node.target))
            return isinstance(module, nn.Unflatten) and self._unflattens(module.dim, module.unflattened_size, step)
        if node.target in UNFLATTENS:
            given = by_parameter(("input", "dim", "sizes"), node.args, node.kwargs)
            return self._unflattens(given["dim"], given["sizes"], step)
        if node.target not in SIZED:
            return False
        sizes = sizes_of(node)
        if len(sizes) <= step.after.axis:  # all of them in one
            return True
        size = sizes[step.after.axis]
        return isinstance(size, fx.Node) and not all(
            leaf.target == "size" and leaf.args[1:] == (step.before.axis,) for leaf in leaves(size)
        )

    def _unflattens(self, dim: Any, sizes: Any, step: Step) -> bool:
        rank = len(self._nodes[step.reads[0]].meta["shape"])
        return not isinstance(dim, int) or (dim % rank == step.before.axis and sizes[0] != -1)

    def _source(self, node: fx.Node) -> fx.Node:
        """What a tensor is a view of, or was before it was written over."""
        while node.op.startswith("call") and node.all_input_nodes:
            if node.name in self._allocating and not writes(self.captured, node):
                break
            node = node.all_input_nodes[0]
        return node

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
        if path in self._read:
            return f"a tensor of {path} is read beside its call"
        return self.surgery.tied(path)

    def cuts(self, step: Step) -> tuple[str, tuple[str, tuple[int, ...]]] | None:
        """The layer that a step will cut, and how; None if it cuts none."""
        path = self.path(step.call)
        if path is None or step.law == "flatten" or self._shared(path) is not None:
            return None
        cut = cut_of_module(self.captured.get_submodule(path), contracts=step.law == "split")
        return (path, (step.law, step.before.widths)) if cut is not None and cut.tensors else None

    def has_call(self, path: str) -> bool:
        """Whether a module is called at all."""
        return any(node.op == "call_module" and node.target == path for node in self.graph.nodes)

    def straddled(self, call: str, before: Channels) -> int | None:
        """The first border of the operands that falls into a group of the call's channels; None if there is none."""
        groups = self._groups(self._nodes[call])
        size = sum(before.widths) // groups
        return next((border for border in accumulate(before.widths) if border % size), None) if groups > 1 else None

    def _groups(self, node: fx.Node) -> int:
        if node.op == "call_module":
            module = self.captured.get_submodule(str(node.target))
            return int(getattr(module, "groups", getattr(module, "num_groups", 1)))
        known = cut_of_function(node.target, contracts=False)
        if known is None:
            return 1
        given = by_parameter(known[1], node.args, node.kwargs)
        return next((int(given[name]) for name in ("groups", "num_groups") if name in given), 1)

    def handed_on(self, call: str) -> list[str]:
        """Calls that hand on what ``call`` makes, or one of what it makes, as it is: dropout does so in evaluation."""
        node = self._nodes[call]
        if is_split(node):
            return [user.name for user in node.users]
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
        return [user.name for user in self._nodes[call].users if user.name not in readers and not asks(user)]

    def description(self, step: Step) -> dict[str, Any]:
        """Fields of a `StepRecord` by which the parts of a call are found again."""
        node = self._nodes[step.call]
        contracts = step.law == "split"
        reads = [self._nodes[read] for read in step.reads]
        place = {
            "arguments": tuple(reads.index(one) if one in reads else -1 for one in inputs_of(node)),
            "turn": self._turns.get(step.call, 0),
            "in_place": writes(self.captured, node),
        }
        if node.op == "call_module":
            path = str(node.target)
            cut = cut_of_module(self.captured.get_submodule(path), contracts=contracts)
            if path not in self.surgery.cuts and (cut is None or not cut.tensors):
                return place
            called = function_of_module(self.captured.get_submodule(path)) if self._shared(path) else None
            function = {"function": called[0], "weight": f"{path}.weight"} if called else {}
            return {"module": path, **place, **function}
        known = cut_of_function(node.target, contracts=contracts)
        given = by_parameter(known[1], node.args, node.kwargs) if known else {}
        selects = known[0].selects if known else ""
        weight = given.get(selects or "weight")
        return {
            "function": torch.index_select if selects else node.target,
            "weight": str(weight.target) if isinstance(weight, fx.Node) and weight.op == "get_attr" else None,
            "size_place": step.after.axis if node.target in SIZED else None,
            **place,
        }

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
