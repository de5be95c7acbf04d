"""Law 4 from right to left: one layer on a concat becomes the sum of the layers that its weight is laid out of."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import torch
from torch import fx
from torch.nn import functional as F

from skipgraph.errors import PlanError
from skipgraph.passes.forms import identity_kernel
from skipgraph.passes.fx_calls import sweep
from skipgraph.passes.record import SumRecord

if TYPE_CHECKING:
    from skipgraph.passes.fx_undo import Undoing

_LAYERS = {F.linear, F.conv1d, F.conv2d, F.conv3d}


def take_back_sum(undoing: Undoing, record: SumRecord) -> None:
    """Take back one merged sum.

    Raises
    ------
    PlanError
        If the graph does not have what the record says.
    """
    layer = _layer(undoing.graph, record)
    operands: list[fx.Node] = list(layer.args[0].args[0])  # type: ignore[union-attr, arg-type]
    graph = undoing.graph
    total: fx.Node | None = None
    with graph.inserting_before(layer):
        for operand, (path, norm) in zip(operands, record.products, strict=True):
            term = operand
            for called in (path, norm):
                if called is not None:
                    term = graph.call_module(called, (term,))
                    term.meta = {**layer.meta}
            total = term if total is None else graph.call_function(operator.add, (total, term))
    assert total is not None
    total.meta = {**layer.meta}
    layer.replace_all_uses_with(total)
    sweep(graph, layer)


def _layer(graph: fx.Graph, record: SumRecord) -> fx.Node:
    """The layer whose weight is laid out of the weights of the record's layers."""
    wanted = [path for path, _ in record.products]
    for node in graph.nodes:
        if node.target in _LAYERS and _is_joined(node):
            weights = node.args[1].args[0]
            if [_layer_of(weight) for weight in weights] == wanted:
                return node  # type: ignore[no-any-return]
    raise PlanError(
        f"the layer that {record.id} became is not found in the model",
        "Give the directory as it was emitted, or the plan that belongs to this model.",
    )


def _is_joined(node: fx.Node) -> bool:
    return all(isinstance(one, fx.Node) and one.target is torch.cat for one in node.args[:2])


def _layer_of(weight: Any) -> str | None:
    """The path of the layer whose weight this is, with zeros around it, scaled, or as it is; None for an identity."""
    pending = [weight]
    while pending:
        node = pending.pop(0)
        if node.target in (torch.eye, identity_kernel):
            return None
        if node.op == "get_attr":
            return str(node.target).rpartition(".")[0]
        pending += [one for one in node.args if isinstance(one, fx.Node)]
    return None
