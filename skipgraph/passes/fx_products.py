"""Law 4 on the graph of a captured model: the nodes that lay one weight out of those of several layers."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F
from torch.nn.utils.parametrize import is_parametrized

from skipgraph.capture import Captured
from skipgraph.passes.edit import Product
from skipgraph.passes.factors import Window
from skipgraph.passes.forms import folded_bias, folded_weight, identity_kernel
from skipgraph.passes.surgery import hooked

_CONVOLUTIONS: dict[Any, Any] = {nn.Conv1d: F.conv1d, nn.Conv2d: F.conv2d, nn.Conv3d: F.conv3d}
_BY_RANK = (F.linear, F.conv1d, F.conv2d, F.conv3d)


def merge_obstacle(captured: Captured, layer: fx.Node, norm: fx.Node | None) -> str | None:
    """Why a layer cannot become a part of a larger one; None if it can."""
    for node in (layer, norm):
        if node is None:
            continue
        if node.op != "call_module":
            return f"{node.name} is no layer of torch.nn"
        module = captured.get_submodule(str(node.target))
        if is_parametrized(module):
            return f"the weight of {node.target} is computed anew in each forward (a parametrization)"
        if hooked(module):
            return f"{node.target} has hooks, which would not run any more"
        if getattr(module, "padding_mode", "zeros") != "zeros":
            return f"{node.target} pads its input by {module.padding_mode}, not by zeros"
    module = captured.get_submodule(str(layer.target))
    if type(module) not in (*_CONVOLUTIONS, nn.Linear):
        return f"{layer.target} ({type(module).__name__}) is no layer that can be merged"
    return None


def merged(
    captured: Captured, graph: fx.Graph, products: Sequence[tuple[Product, fx.Node]], window: Window, axis: int
) -> fx.Node:
    """One layer on a concat, at the graph's insertion point; ``products`` come with their operands' nodes."""
    weights: list[fx.Node | None] = []
    biases: list[fx.Node] = []
    like: fx.Node | None = None
    for product, _ in products:
        if product.layer is None:
            weights.append(None)
            continue
        layer = _owner(graph, product.layer)
        module = captured.get_submodule(str(layer.target))
        weight: fx.Node = graph.get_attr(f"{layer.target}.weight")
        bias = graph.get_attr(f"{layer.target}.bias") if module.bias is not None else None
        if product.norm is not None:
            norm = graph.get_attr(str(_owner(graph, product.norm).target))
            bias = graph.call_function(folded_bias, (bias, norm))
            weight = graph.call_function(folded_weight, (weight, norm))
        if bias is not None:
            biases.append(bias)
        margins = _margins(module, window)
        if any(margins):
            weight = graph.call_function(F.pad, (weight, margins))
        like = like or weight
        weights.append(weight)
    filled = [
        graph.call_function(identity_kernel, (operand.meta["shape"][axis], list(window.kernel), like or operand))
        if weight is None
        else weight
        for weight, (_, operand) in zip(weights, products, strict=True)
    ]
    joined = graph.call_function(torch.cat, ([operand for _, operand in products], axis))
    shape = list(products[0][1].meta["shape"])
    shape[axis] = sum(operand.meta["shape"][axis] for _, operand in products)
    joined.meta["shape"] = tuple(shape)
    laid_out = graph.call_function(torch.cat, (filled, 1))
    total: fx.Node | None = None
    for more in biases:
        total = more if total is None else graph.call_function(operator.add, (total, more))
    function = _BY_RANK[len(window.kernel)]
    if function is F.linear:
        return graph.call_function(function, (joined, laid_out, total))
    return graph.call_function(function, (joined, laid_out, total, window.stride, window.padding, window.dilation))


def _owner(graph: fx.Graph, name: str) -> fx.Node:
    found: fx.Node = next(node for node in graph.nodes if node.name == name)
    return found


def _margins(module: Any, window: Window) -> list[int]:
    """How many zeros stand before and behind a kernel, last axis first."""
    if not window.kernel:
        return []
    padding = module.padding
    margins: list[int] = []
    for place in reversed(range(len(window.kernel))):
        size, wide = module.kernel_size[place], window.kernel[place]
        less = _padding(module, padding, place)
        shift = (window.padding[place] - less) // window.dilation[place]
        margins += [shift, wide - size - shift]
    return margins


def _padding(module: Any, padding: Any, place: int) -> int:
    if padding == "valid":
        return 0
    if padding == "same":
        return int(module.dilation[place] * (module.kernel_size[place] - 1) // 2)
    return int(padding[place])
