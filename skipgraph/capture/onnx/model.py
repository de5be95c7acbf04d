"""A model that was read from an ONNX file: a graph of PyTorch's calls that remembers the ONNX nodes it stands for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn

from skipgraph.capture.calls import ScopedGraph
from skipgraph.capture.opaque import Opaque
from skipgraph.capture.runnable import Captured

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True, slots=True)
class Origin:
    """What a call stands for: kept in ``node.meta["onnx"]``.

    Attributes
    ----------
    node : onnx_ir.Node
    places : tuple of int or None
        Which of the node's inputs each of the call's tensors is, in the order of its arguments; None if the call is
        only a part of what the node does.
    """

    node: ir.Node
    places: tuple[int, ...] | None


def nodes_of(tree: Any) -> list[fx.Node]:
    """The nodes in the arguments of a call, in order, each as often as it stands there."""
    found: list[fx.Node] = []

    def note(node: fx.Node) -> fx.Node:
        found.append(node)
        return node

    fx.map_arg(tree, note)
    return found


def inner_nodes(node: ir.Node) -> Iterator[ir.Node]:
    """The nodes of the graphs that a node holds: branches and bodies of loops."""
    import onnx_ir as ir

    for attribute in node.attributes.values():
        if attribute.type is ir.AttributeType.GRAPH:
            yield from attribute.as_graph().all_nodes()
        elif attribute.type is ir.AttributeType.GRAPHS:
            for graph in attribute.as_graphs():
                yield from graph.all_nodes()


def outer_values(node: ir.Node) -> list[ir.Value]:
    """What the graphs that a node holds read of the graph around it, each value once."""
    import onnx_ir as ir

    inner = {id(value) for one in inner_nodes(node) for value in one.outputs}
    for holder in (node, *inner_nodes(node)):
        for attribute in holder.attributes.values():
            graphs = [attribute.as_graph()] if attribute.type is ir.AttributeType.GRAPH else []
            inner |= {id(value) for graph in graphs for value in (*graph.inputs, *graph.initializers.values())}
    read = [value for one in inner_nodes(node) for value in one.inputs if value is not None]
    return list({id(value): value for value in read if id(value) not in inner}.values())


class Root(nn.Module):
    """Holds the layers. They are for inference, whatever the mode: a file says nothing of training."""

    def train(self, mode: bool = True) -> Root:
        """Set the mode of the model itself, and leave its layers in evaluation."""
        self.training = mode
        return self


class OnnxModel(Captured):
    """An ONNX graph as calls of PyTorch, one an operator wherever there is one.

    Attributes
    ----------
    file : onnx_ir.Model
        What was read, with model-local functions inlined. It is shared by all copies, and not to be changed.
    calls : dict
        ONNX value -> the call that makes it. Values of nodes that hand on their operand are those of its call.
    labels : dict
        Call -> what users know it by: the name of the ONNX node, and of its operator.
    notes : list of str
        What the user should know of how it was read.
    path : pathlib.Path
        Where the file lies.
    """

    is_source = True
    modes = (False,)  # a file says nothing of training
    shared = (*Captured.shared, "file", "calls", "labels", "notes")

    def __init__(
        self,
        root: nn.Module,
        graph: ScopedGraph,
        file: ir.Model,
        calls: dict[ir.Value, str],
        labels: dict[str, tuple[str, str]],
        notes: Iterable[str],
        path: Path,
    ) -> None:
        super().__init__(root, {False: graph, True: graph}, {}, ())
        self.eval()
        self.file = file
        self.calls = calls
        self.labels = labels
        self.notes = list(notes)
        self.path = path

    def __repr__(self) -> str:
        return f"OnnxModel({self.file.graph.name!r})"


class Unseen(Opaque):
    """An operator that skipgraph cannot run: results of the right shapes, full of zeros.

    Parameters
    ----------
    results : sequence of tuple
        Shape and dtype of each result.
    reason : str
        Why it cannot be run.
    """

    def __init__(self, results: Iterable[tuple[tuple[int, ...], torch.dtype]], reason: str) -> None:
        super().__init__()
        self.results = list(results)
        self.reason = reason

    def forward(self, *operands: Any) -> Any:
        """Zeros on the device of the operands."""
        device = next((one.device for one in operands if isinstance(one, torch.Tensor)), None)
        made = tuple(torch.zeros(shape, dtype=dtype, device=device) for shape, dtype in self.results)
        return made[0] if len(made) == 1 else made
