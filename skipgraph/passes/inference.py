"""Forms that only inference can use: batch norms folded away, activations in place, sums accumulated in bands."""

from __future__ import annotations

import operator
from collections import Counter
from typing import Any, cast

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from skipgraph.capture import Captured, ScopedGraph, copied
from skipgraph.passes.forms import add_in_bands, add_upsampled_in_bands
from skipgraph.passes.fx_calls import plain_sum
from skipgraph.passes.surgery import hooked
from skipgraph.passes.workbench import Inputs, drawn

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_BANDS = 8
_ROUNDS = 16  # of banding what holds the most


def for_inference(model: Captured, inputs: Inputs) -> Captured:
    """A copy of a model that computes the same in evaluation, with less memory, and cannot train.

    Each batch norm behind convolutions, or behind a sum of them, is folded into their weights (torch.nn.utils.fusion);
    activations overwrite what nobody else reads; and where a product that is added to a sum, or the transposed
    convolution in front of it, holds the most, it is computed in bands of rows.
    """
    new = model.copy().eval()
    graph = new.graphs[False]
    new.graphs = {False: graph, True: graph}
    fold_norms(new, graph)
    overwrite(new, graph)
    new.recompile()
    accumulate_in_bands(new, inputs)
    for parameter in new.parameters():
        parameter.requires_grad_(False)
    return new


def fold_norms(model: Captured, graph: ScopedGraph) -> None:
    """Fold batch norms into the convolutions in front of them; an identity stays in their place."""
    calls = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
    owners = Counter(id(parameter) for module in model.modules() for parameter in module._parameters.values())
    for node in list(graph.nodes):
        norm = _called(model, node, _NORMS)
        if norm is None or norm.running_mean is None or calls[str(node.target)] > 1:
            continue
        terms = _terms(node.args[0], node)
        layers = [_called(model, term, _CONVOLUTIONS) for term in terms]
        foldable = all(
            layer is not None and calls[str(term.target)] == 1 and owners[id(layer.weight)] == 1
            for layer, term in zip(layers, terms, strict=True)
        )
        if terms and foldable:
            _fold(model, terms, layers, norm)
            model.set_submodule(str(node.target), nn.Identity())


def _terms(total: Any, reader: fx.Node) -> list[fx.Node]:
    """What is added up in front of ``reader``, if nobody else reads any of it; nothing otherwise."""
    if not isinstance(total, fx.Node) or set(total.users) != {reader}:
        return []
    if not plain_sum(total):
        return [total]
    found = [_terms(term, total) for term in total.args]
    return [term for terms in found for term in terms] if all(found) else []


def _fold(model: Captured, terms: list[fx.Node], layers: list[Any], norm: Any) -> None:
    """``norm(Σ W_i·x_i + b)``: every weight is scaled, the bias and the shift are in the first."""
    scale = torch.rsqrt(norm.running_var + norm.eps)
    scale = scale if norm.weight is None else scale * norm.weight
    with torch.no_grad():
        # Only the first may have a bias: law 3 gives it to nobody else.
        others = [layer for layer in layers if layer.bias is not None][1:]
        for number, (term, layer) in enumerate(zip(terms, layers, strict=True)):
            if number == 0:
                folded: Any = fuse_conv_bn_eval(layer, norm)
                for other in others:
                    folded.bias += scale * other.bias
            else:
                folded = fuse_conv_bn_eval(layer, norm)
                folded.bias = None
            model.set_submodule(str(term.target), folded)


def overwrite(model: Captured, graph: ScopedGraph) -> None:
    """Let activations write over what a layer has just made and nobody else reads."""
    calls = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
    for node in graph.nodes:
        module = _called(model, node, (nn.Module,))
        if getattr(module, "inplace", None) is False and calls[str(node.target)] == 1 and _is_fresh(model, node):
            assert module is not None
            module.inplace = True


def _is_fresh(model: Captured, reader: fx.Node) -> bool:
    made = reader.args[0]
    if not isinstance(made, fx.Node) or set(made.users) != {reader}:
        return False
    if _called(model, made, (nn.Identity,)) is not None:
        return _is_fresh(model, made)
    return plain_sum(made) or _called(model, made, (*_CONVOLUTIONS, *_NORMS, nn.Linear)) is not None


def accumulate_in_bands(model: Captured, inputs: Inputs) -> None:
    """Compute what holds the most in bands, as long as that lowers the peak."""
    now = drawn(model, inputs)
    for _ in range(_ROUNDS):
        before = model.graphs
        graph = copied(before[False])
        at = next((node for node in graph.nodes if node.name == now.nodes[now.cost.peak_node]["site"]), None)
        found = _bandable(model, at) if at is not None else None
        if found is None:
            return
        _put_bands(model, graph, *found)
        model.graphs = {False: graph, True: graph}
        model.recompile()
        after = drawn(model, inputs)
        if after.cost.peak_bytes >= now.cost.peak_bytes:
            model.graphs = before
            model.recompile()
            return
        now = after


def _bandable(model: Captured, at: fx.Node) -> tuple[fx.Node, fx.Node, fx.Node] | None:
    """The sum so far, the product that is added to it, and the addition, if ``at`` is part of that."""
    for node in (at, *at.users, *(user for one in at.users for user in one.users)):
        if node.target is not operator.iadd:
            continue
        total, term = cast(tuple[fx.Node, fx.Node], node.args)
        layer = _called(model, term, (nn.Conv2d,))
        plain = layer is not None and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
        if plain and set(term.users) == {node} and at in (node, term, term.args[0]):
            return total, term, node
    return None


def _put_bands(model: Captured, graph: ScopedGraph, total: fx.Node, term: fx.Node, add: fx.Node) -> None:
    x = term.args[0]
    rows = max(1, -(-add.meta["shape"][2] // _BANDS))
    up = _called(model, x, (nn.ConvTranspose2d,))
    assert isinstance(x, fx.Node)
    graph.scope = add.meta.get("scope", ())
    with graph.inserting_before(add):
        layer = graph.get_attr(str(term.target))
        if up is not None and set(x.users) == {term} and _is_tiled(up):
            tiles = graph.get_attr(str(x.target))
            made = graph.call_function(add_upsampled_in_bands, (total, x.args[0], tiles, layer, rows))
        else:
            made = graph.call_function(add_in_bands, (total, x, layer, rows))
    made.meta["shape"] = add.meta["shape"]
    add.replace_all_uses_with(made)
    for node in (add, term, x):
        if not node.users:
            graph.erase_node(node)


def _is_tiled(up: Any) -> bool:
    """Whether each input position makes a tile of its own in the result of a transposed convolution."""
    plain = up.padding == (0, 0) and up.output_padding == (0, 0) and up.dilation == (1, 1)
    return bool(plain and up.kernel_size == up.stride)


def _called(model: Captured, node: Any, kinds: tuple[type[nn.Module], ...]) -> Any:
    """The module that a node calls, if it is of one of ``kinds`` and has no hooks."""
    if not isinstance(node, fx.Node) or node.op != "call_module":
        return None
    module = model.get_submodule(str(node.target))
    return module if isinstance(module, kinds) and not hooked(module) else None
