"""The layers that can be factored: those that read concats, and on request all others, with what each rank costs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F
from torch.nn.utils.parametrize import is_parametrized

from skipgraph.capture import Captured
from skipgraph.compress.factor import Form
from skipgraph.compress.layers import TRANSPOSED, is_linear_layer, sizes
from skipgraph.passes.surgery import Surgery

_CONCATS = (torch.cat, torch.concat, torch.concatenate)


@dataclass(frozen=True, slots=True)
class Operand:
    """An operand of a concat that a layer reads with nothing in between.

    Attributes
    ----------
    width : int
        Channels.
    positions : int
        At which its projection is computed: on the cheap side of what resamples it (law 6).
    passed : int
        Multiply-adds of what it commutes with on the way there, which then runs on fewer channels.
    folds_into : str or None
        Path of the linear layer that makes it for this reader alone: its projection is folded into that.
    flops, parameters : int
        Of that layer.
    """

    width: int
    positions: int
    passed: int = 0
    folds_into: str | None = None
    flops: int = 0
    parameters: int = 0


@dataclass(frozen=True, slots=True)
class Layer:
    """A linear layer that can be factored.

    Attributes
    ----------
    path : str
    merge : str or None
        Id of the concat that it reads, with channel-wise operators in between or none; None for other layers.
    shape : tuple of int
        Outputs, inputs, taps.
    transposed : bool
    read, made : int
        Positions that it reads and makes in all its calls.
    operands : tuple of Operand
        Of the concat, where nothing stands in between; empty otherwise.
    """

    path: str
    merge: str | None
    shape: tuple[int, int, int]
    transposed: bool
    read: int
    made: int
    bias: bool
    operands: tuple[Operand, ...] = field(default=())

    @property
    def flops(self) -> int:
        """Multiply-adds as it is."""
        out, channels, taps = self.shape
        return (self.read if self.transposed else self.made) * out * channels * taps

    @property
    def parameters(self) -> int:
        """Parameters as it is."""
        out, channels, taps = self.shape
        return out * channels * taps + (out if self.bias else 0)

    def price(self, rank: int, form: Form) -> tuple[int, int]:
        """How many multiply-adds and parameters there are more with factors of a rank; negative is less.

        What is folded is counted where it goes.
        """
        out, channels, taps = self.shape
        at = self.read if self.transposed else self.made
        weights = rank * (channels + out * taps) if form == "project" else rank * (channels * taps + out)
        if form == "restore":
            flops = at * channels * taps * rank + self.made * rank * out
        elif not self.operands:
            flops = self.read * channels * rank + at * rank * taps * out
        else:
            flops = at * rank * taps * out
            for operand in self.operands:
                flops += operand.positions * operand.width * rank
                flops += operand.passed * rank // operand.width - operand.passed
                if self.folds(operand, rank):
                    flops += operand.flops * rank // operand.width - operand.flops
                    flops -= operand.positions * operand.width * rank
                    weights += operand.parameters * rank // operand.width - operand.parameters - operand.width * rank
        return flops - self.flops, weights + out - self.parameters

    def folds(self, operand: Operand, rank: int) -> bool:
        """Whether the projection of an operand is better folded into the layer that makes it."""
        if operand.folds_into is None:
            return False
        return operand.flops * rank // operand.width <= operand.flops + operand.positions * operand.width * rank

    def break_even(self, form: Form) -> int:
        """The largest rank that costs fewer multiply-adds than the layer itself; 0 if there is none."""
        out, channels, taps = self.shape
        full = min(out, channels * taps) if form == "restore" else min(channels, out * taps)
        low, high = 0, full
        while low < high:
            middle = (low + high + 1) // 2
            if self.price(middle, form)[0] < 0:
                low = middle
            else:
                high = middle - 1
        return low


def at_concats(
    captured: Captured, graph: fx.Graph, found: Iterable[tuple[str, str]], flops: Mapping[str, int]
) -> list[Layer]:
    """Layers that read concats.

    Parameters
    ----------
    captured : Captured
    graph : torch.fx.Graph
        Its graph of evaluation.
    found : iterable
        (id of the concat's merge, name of the layer's call), as a pass finds them.
    flops : dict
        Name of a call -> its multiply-adds.
    """
    nodes = {node.name: node for node in graph.nodes}
    obstacles = Obstacles(captured, graph)
    layers: dict[str, Layer] = {}
    for merge, call in found:
        node = nodes.get(call)
        if node is None or obstacles.of(node) is not None or str(node.target) in layers:
            continue
        layers[str(node.target)] = _layer(captured, node, merge, flops)
    return list(layers.values())


def others(captured: Captured, graph: fx.Graph, known: Sequence[Layer]) -> list[Layer]:
    """All other linear layers; those into which a projection may be folded are left out."""
    taken = {layer.path for layer in known}
    taken |= {operand.folds_into for layer in known for operand in layer.operands if operand.folds_into}
    obstacles = Obstacles(captured, graph)
    layers: dict[str, Layer] = {}
    for node in graph.nodes:
        path = str(node.target)
        if node.op == "call_module" and path not in taken and obstacles.of(node) is None and path not in layers:
            layers[path] = _layer(captured, node, None, {})
    return list(layers.values())


class Obstacles:
    """Why layers cannot be replaced by two."""

    def __init__(self, captured: Captured, graph: fx.Graph) -> None:
        self._captured = captured
        self._surgery = Surgery(captured)
        self._calls = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")

    def of(self, node: fx.Node) -> str | None:
        """The reason, in one sentence; None if it can be."""
        if node.op != "call_module":
            return f"{node.name} is no layer of torch.nn"
        path = str(node.target)
        module = self._captured.get_submodule(path)
        if not is_linear_layer(module):
            return f"{path} ({type(module).__name__}) is no linear layer that mixes all its channels"
        if is_parametrized(module):
            return f"the weight of {path} is computed anew in each forward (a parametrization)"
        if self._calls[path] > 1:
            return f"{path} is called {self._calls[path]} times"
        return self._surgery.obstacle(path)


def _layer(captured: Captured, node: fx.Node, merge: str | None, flops: Mapping[str, int]) -> Layer:
    module = captured.get_submodule(str(node.target))
    read = node.args[0]
    assert isinstance(read, fx.Node)
    out, channels, _ = sizes(module)
    operands: tuple[Operand, ...] = ()
    if merge is not None and read.target in _CONCATS:
        alone = set(read.users) == {node}
        operands = tuple(_operand(captured, one, read, flops, alone=alone) for one in _flattened(read))
    return Layer(
        str(node.target), merge, sizes(module), type(module) in TRANSPOSED,
        math.prod(read.meta["shape"]) // channels, math.prod(node.meta["shape"]) // out,
        getattr(module, "bias", None) is not None, operands,
    )  # fmt: skip


def _flattened(concat: fx.Node) -> list[fx.Node]:
    joined: Any = concat.args[0] if concat.args else concat.kwargs["tensors"]
    return [
        inner
        for one in joined
        for inner in (_flattened(one) if one.target in _CONCATS and len(one.users) == 1 else [one])
    ]


def _operand(captured: Captured, node: fx.Node, reader: fx.Node, flops: Mapping[str, int], *, alone: bool) -> Operand:
    axis = 1 if len(node.meta["shape"]) > 2 else len(node.meta["shape"]) - 1
    width = node.meta["shape"][axis]
    positions = math.prod(node.meta["shape"]) // width
    source, passed = node, 0
    while alone and set(source.users) == {reader} and commutes(captured, source):
        smaller = math.prod(source.all_input_nodes[0].meta["shape"]) // width
        if smaller >= positions:
            break
        passed += flops.get(source.name, 0)
        reader, source, positions = source, source.all_input_nodes[0], smaller
    if alone and set(source.users) == {reader} and source is node and source.op == "call_module":
        module = captured.get_submodule(str(source.target))
        if is_linear_layer(module) and Obstacles(captured, source.graph).of(source) is None:
            made = _layer(captured, source, None, {})
            return Operand(width, positions, 0, made.path, made.flops, made.parameters)
    return Operand(width, positions, passed)


_RESAMPLING = (nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)


def commutes(captured: Captured, node: fx.Node) -> bool:
    """Whether a call is linear in each channel alone, the same for all, and without a constant term (law 6)."""
    if node.op == "call_module":
        module = captured.get_submodule(str(node.target))
        return isinstance(module, _RESAMPLING) and not (module._forward_hooks or module._forward_pre_hooks)
    return node.target in (F.interpolate, F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)
