"""An edited ONNX graph, as ONNX: what was not touched stays as it was, node by node and name by name.

The calls of a rewritten `OnnxModel` remember the nodes that they stand for. A node whose calls are as they were is
kept. What is new is written by a table of the few calls that rewrites make, or, where it is the same operator on other
operands, by the node that it was copied from. What depends on parameters alone is computed, and is an initialiser.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn

from skipgraph.capture.onnx import OnnxModel, Origin, inner_nodes, nodes_of, outer_values
from skipgraph.emit.onnx_calls import writer_of
from skipgraph.emit.onnx_scribe import Scribe, all_values
from skipgraph.errors import EmitError

if TYPE_CHECKING:
    import onnx_ir as ir


def onnx_graph(original: OnnxModel, model: OnnxModel, inputs: tuple[torch.Tensor, ...]) -> ir.Model:
    """The file that ``original`` was read from, with the edits of ``model``.

    Parameters
    ----------
    original, model : OnnxModel
        Before and after a rewrite, with data.
    inputs : tuple of torch.Tensor
        Example inputs.

    Returns
    -------
    onnx_ir.Model
        A model of its own: operator sets, metadata, functions, and names of untouched nodes and values are the file's.

    Raises
    ------
    EmitError
        If a call has no counterpart in ONNX.
    """
    return _Writer(original, model, inputs).write()


class _Writer:
    def __init__(self, original: OnnxModel, model: OnnxModel, inputs: tuple[torch.Tensor, ...]) -> None:
        self.original = original
        self.model = model
        self.scribe = Scribe(model.file.clone())
        self.results = _results(model, inputs)
        self._known = {value.name: value for value in all_values(self.scribe.file)}
        self._values: dict[fx.Node, ir.Value] = {}
        # The value that a call makes is the first of its values: others hand it on.
        self._own = {
            name: self._known[value.name] for value, name in reversed(model.calls.items()) if value.name in self._known
        }
        self._before = {node.name: node for node in original.graphs[False].nodes}
        self._groups: dict[int, list[fx.Node]] = {}
        for node in self._before.values():
            if isinstance(node.meta.get("onnx"), Origin):
                self._groups.setdefault(id(node.meta["onnx"].node), []).append(node)
        self._now = {node.name: node for node in model.graphs[False].nodes}
        self._given = _given(model.graphs[False])
        self._clones = {id(node): clone for node, clone in zip(model.file.graph, self.scribe.file.graph, strict=True)}

    def write(self) -> ir.Model:
        """The edited file."""
        from onnx_ir.passes.common import RemoveUnusedNodesPass

        graph = self.scribe.file.graph
        for node in self.model.graphs[False].nodes:
            if node.op == "placeholder":
                self._values[node] = self._own[node.name]
            elif node.op == "output":
                self._set_outputs(node)
            elif node in self._given:
                self._write(node)
        self._forget_unread_branches()
        was_input = {value.name for value in graph.inputs if value.is_initializer()}
        RemoveUnusedNodesPass()(self.scribe.file)
        graph.sort()
        for value in [one for one in graph.inputs if one.name in was_input and one.name not in graph.initializers]:
            graph.inputs.remove(value)
        return self.scribe.file

    def _forget_unread_branches(self) -> None:
        """Let what nobody reads read nothing itself: the branches of a node that goes keep their operands otherwise."""
        for node in self.scribe.file.graph:
            if not any(value.uses() or value.is_graph_output() for value in node.outputs):
                for inner in inner_nodes(node):
                    for place in range(len(inner.inputs)):
                        inner.replace_input_with(place, None)

    # -- calls -------------------------------------------------------------------------------------------------------

    def _write(self, node: fx.Node) -> None:
        origin = node.meta.get("onnx")
        if isinstance(origin, Origin) and node.name in self._before and self._is_kept(origin):
            self._keep(node, origin)
            return
        writer = writer_of(self.model, node)
        if writer is not None:
            self._values[node] = writer(self, node)
        elif isinstance(origin, Origin) and origin.places is not None and len(origin.node.outputs) == 1:
            self._values[node] = self.copied(node)
        else:
            raise EmitError(
                f"the call {node.name} ({node.target}) cannot be written as ONNX",
                "Leave the site out, by --skip; and please report it.",
            )

    def _is_kept(self, origin: Origin) -> bool:
        return all(self._unchanged(one) for one in self._groups[id(origin.node)])

    def _unchanged(self, before: fx.Node) -> bool:
        """Whether a call does what it did, to operands of the same shapes."""
        now = self._now.get(before.name)
        if now is None or (now.op, now.target) != (before.op, before.target):
            return False
        if _shaped((now.args, now.kwargs)) != _shaped((before.args, before.kwargs)):
            return False
        return now.op != "call_module" or _same_layer(
            self.model.get_submodule(str(now.target)), self.original.get_submodule(str(now.target))
        )

    def _keep(self, node: fx.Node, origin: Origin) -> None:
        """The node of the file, reading what its operands are made by now."""
        clone = self._clones.get(id(origin.node))
        if clone is not None:  # else it stands in a branch, which is read with its outer values as they are
            operands = self._operands_now(origin)
            for place, value in enumerate(origin.node.inputs):
                before = self.model.calls.get(value) if value is not None else None
                now = operands.get(before) if before is not None else None
                if now is not None and self.value(now) is not self._own.get(str(before)):
                    clone.replace_input_with(place, self.value(now))
            self._keep_inside(origin.node, clone, operands)
        if node.name in self._own:
            self._values[node] = self._own[node.name]

    def _keep_inside(self, before: ir.Node, clone: ir.Node, operands: dict[str, fx.Node]) -> None:
        """What the branches of a node read of the graph around them, as it is made by now."""
        for value in outer_values(before):
            name = self.model.calls.get(value)
            now = operands.get(name) if name is not None else None
            if now is None or self.value(now) is self._own.get(str(name)):
                continue
            for node in inner_nodes(clone):
                for place, one in enumerate(node.inputs):
                    if one is self._known[value.name]:
                        node.replace_input_with(place, self.value(now))

    def _operands_now(self, origin: Origin) -> dict[str, fx.Node]:
        """What the calls of a node of the file read, by the names of what they read before."""
        found: dict[str, fx.Node] = {}
        group = self._groups[id(origin.node)]
        for before in group:
            now = self._now[before.name]
            pairs = zip(nodes_of((before.args, before.kwargs)), nodes_of((now.args, now.kwargs)), strict=True)
            found |= {old.name: new for old, new in pairs if old not in group}
        return found

    def copied(self, node: fx.Node) -> ir.Value:
        """The operator of the node of the file that a call was copied from, on other operands."""
        origin: Origin = node.meta["onnx"]
        assert origin.places is not None
        tensors = [self.value(one) for one in nodes_of((node.args, node.kwargs))]
        operands = [None if value is None else self._known[value.name] for value in origin.node.inputs]
        for place, value in zip(origin.places, tensors, strict=True):
            operands[place] = value
        return self.scribe.node(
            origin.node.op_type, operands, dict(origin.node.attributes), node.name, origin.node.domain
        )

    # -- what writers ask --------------------------------------------------------------------------------------------

    def value(self, node: fx.Node) -> ir.Value:
        """The ONNX value of a call; an initialiser, if it depends on no input."""
        if node not in self._values:
            if node.op == "get_attr" and node.name in self._own:
                self._values[node] = self._own[node.name]
            elif node not in self._given:
                self._values[node] = self.scribe.initializer(self.results[node], str(node.name))
            else:
                raise EmitError(f"the call {node.name} is a part of another node", "Please report it.")
        return self._values[node]

    def module(self, node: fx.Node) -> Any:
        """The layer that a call calls."""
        return self.model.get_submodule(str(node.target))

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        """The shape of what a call makes of the example inputs."""
        return tuple(self.results[node].shape)

    def original_input(self, node: fx.Node, place: int) -> ir.Value | None:
        """An input of the node that a call was copied from; None if it has none."""
        origin = node.meta.get("onnx")
        if not isinstance(origin, Origin) or place >= len(origin.node.inputs) or origin.node.inputs[place] is None:
            return None
        return self._known[origin.node.inputs[place].name]  # type: ignore[union-attr]

    # -- outputs -----------------------------------------------------------------------------------------------------

    def _set_outputs(self, node: fx.Node) -> None:
        graph = self.scribe.file.graph
        before = nodes_of(next(reversed(self.original.graphs[False].nodes)).args)
        names = [value.name for value in graph.outputs]  # the same may be handed out twice
        for place, (was, made) in enumerate(zip(before, nodes_of(node.args), strict=True)):
            if names[place] in names[:place]:
                graph.outputs[place] = graph.outputs[names.index(names[place])]
                continue
            old, new = graph.outputs[place], self.value(made)
            if new is self._own.get(was.name):  # it is made as it was, and handed on as it was
                continue
            if new in graph.outputs or new.is_initializer() or new.is_graph_input():
                new = self.scribe.node("Identity", [new], {}, f"{old.name}_identity")
            name = names[place]
            new.type, new.shape = old.type, old.shape
            graph.outputs[place] = new
            old.name = self.scribe.free(f"{name}_before")
            new.name = name


def _results(model: OnnxModel, inputs: tuple[torch.Tensor, ...]) -> dict[fx.Node, Any]:
    """What each call makes."""
    results: dict[fx.Node, Any] = {}

    class Noting(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            made = super().run_node(n)
            given = n in givens or not isinstance(made, torch.Tensor)
            results[n] = torch.empty_like(made, device="meta") if given and isinstance(made, torch.Tensor) else made
            return made

    graph = model.graphs[False]
    givens = _given(graph)
    with torch.no_grad():
        Noting(model, graph=graph).run(*inputs, enable_io_processing=False)
    return results


def _given(graph: fx.Graph) -> set[fx.Node]:
    """The calls that depend on an input."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder" or any(one in found for one in node.all_input_nodes):
            found.add(node)
    return found


def _shaped(tree: Any) -> Any:
    return fx.map_arg(tree, lambda node: ("a tensor", node.meta.get("shape")))


def _same_layer(one: nn.Module, other: nn.Module) -> bool:
    mine, theirs = ({**dict(layer.named_parameters()), **dict(layer.named_buffers())} for layer in (one, other))
    return (
        type(one) is type(other)
        and mine.keys() == theirs.keys()
        and all(mine[name].shape == theirs[name].shape and torch.equal(mine[name], theirs[name]) for name in mine)
    )
