"""The layers that can be factored: those that read concats, and on request all others, with what each rank costs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import fx, nn
from torch.nn import functional as F
from torch.nn.utils.parametrize import is_parametrized

from skipgraph.capture import Captured
from skipgraph.compress.factor import Form
from skipgraph.compress.layers import TRANSPOSED, is_linear_layer, sizes
from skipgraph.passes.fx_calls import CONCATS
from skipgraph.passes.surgery import Surgery


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
    bias, pair_bias : bool
        Whether it has one; whether its pair gets one, which makes good the mean that is lost.
    operands : tuple of Operand
        Of the concat, where nothing but resampling stands in between; or what is resampled; empty otherwise.
    """

    path: str
    merge: str | None
    shape: tuple[int, int, int]
    transposed: bool
    read: int
    made: int
    bias: bool
    pair_bias: bool
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
        return flops - self.flops, weights + (out if self.pair_bias else 0) - self.parameters

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


class Sites:
    """The layers of a captured model that can be factored.

    Parameters
    ----------
    captured : Captured
    flops : dict
        Name of a call of its graph of evaluation -> multiply-adds.
    biased : bool
        Pairs get a bias whether or not their layer has one: there is data to tell the mean that is lost.
    """

    def __init__(self, captured: Captured, flops: Mapping[str, int], *, biased: bool) -> None:
        self._captured = captured
        self._graph = captured.graphs[False]
        self._flops = flops
        self._biased = biased
        self._obstacles = Obstacles(captured)

    def layers(self, found: Iterable[tuple[str, str]], others: Callable[[str], bool]) -> list[Layer]:
        """Those that read concats, and others, in order of execution.

        Layers into which a projection may be folded are left out of the others.

        Parameters
        ----------
        found : iterable
            (id of the concat's merge, name of the layer's call), as a pass finds them.
        others : callable
            Path of a layer that reads no such concat -> whether it is wanted.
        """
        merges = {call: merge for merge, call in found}
        calls = [node for node in self._graph.nodes if self._obstacles.of(node) is None]
        at_concats = {str(node.target) for node in calls if node.name in merges}
        known = {
            str(node.target): self._layer(node, merges[node.name], at_concats) for node in calls if node.name in merges
        }
        taken = sources_of(known.values())
        return [
            known.get(str(node.target)) or self._layer(node, None, at_concats)
            for node in calls
            if str(node.target) in known or (str(node.target) not in taken and others(str(node.target)))
        ]

    def _layer(self, node: fx.Node, merge: str | None, kept: Collection[str]) -> Layer:
        module: Any = self._captured.get_submodule(str(node.target))
        out, channels, _ = sizes(module)
        read = node.all_input_nodes[0]
        return Layer(
            str(node.target), merge, sizes(module), type(module) in TRANSPOSED,
            math.prod(read.meta["shape"]) // channels, math.prod(node.meta["shape"]) // out,
            module.bias is not None, self._biased or module.bias is not None,
            self._operands(node, kept) if merge is not None else self._behind_resampling(node),
        )  # fmt: skip

    def _operands(self, node: fx.Node, kept: Collection[str]) -> tuple[Operand, ...]:
        """The operands of the concat that a layer reads, resampled or not; nothing if anything else is in between."""
        spatial = _spatial(self._captured.get_submodule(str(node.target)))
        reader, concat = node, node.all_input_nodes[0]
        resampling: list[fx.Node] = []
        while concat.target not in CONCATS:
            if not self._passes(concat, reader, spatial):
                return ()
            resampling.append(concat)
            reader, concat = concat, concat.all_input_nodes[0]
        alone = set(concat.users) == {reader}
        width = sum(_width(one, spatial) for one, _ in _flattened(concat))
        passed = sum(self._flops.get(one.name, 0) for one in resampling)
        found = []
        counts = Counter(one for one, _ in _flattened(concat))
        for one, joined in _flattened(concat):
            free = alone and counts[one] == 1
            its = _width(one, spatial)
            found.append(self._operand(one, joined, kept, spatial, free=free, passed=passed * its // width))
        return tuple(found)

    def _behind_resampling(self, node: fx.Node) -> tuple[Operand, ...]:
        """What a layer that reads no concat reads, if a projection of it is made in front of what resamples it."""
        spatial = _spatial(self._captured.get_submodule(str(node.target)))
        reader, source, passed = node, node.all_input_nodes[0], 0
        while self._passes(source, reader, spatial):
            passed += self._flops.get(source.name, 0)
            reader, source = source, source.all_input_nodes[0]
        width = _width(source, spatial)
        return () if reader is node else (Operand(width, math.prod(source.meta["shape"]) // width, passed),)

    def _passes(self, node: fx.Node, reader: fx.Node, spatial: int) -> bool:
        """Whether a projection goes in front of a call, because that is cheaper."""
        return (
            spatial > 0
            and set(node.users) == {reader}
            and commutes(self._captured, node)
            and math.prod(node.all_input_nodes[0].meta["shape"]) < math.prod(node.meta["shape"])
        )

    def _operand(
        self, node: fx.Node, reader: fx.Node, kept: Collection[str], spatial: int, *, free: bool, passed: int
    ) -> Operand:
        width = _width(node, spatial)
        source = node
        while free and self._passes(source, reader, spatial):
            passed += self._flops.get(source.name, 0)
            reader, source = source, source.all_input_nodes[0]
        positions = math.prod(source.meta["shape"]) // width
        if free and set(source.users) == {reader} and self._obstacles.of(source) is None:
            path = str(source.target)
            if path not in kept and _spatial(self._captured.get_submodule(path)) == spatial:
                made = self._layer(source, None, kept)
                return Operand(width, positions, passed, path, made.flops, made.parameters)
        return Operand(width, positions, passed)


def sources_of(layers: Iterable[Layer]) -> frozenset[str]:
    """Paths of the layers that projections may be folded into."""
    return frozenset(operand.folds_into for layer in layers for operand in layer.operands if operand.folds_into)


class Obstacles:
    """Why layers cannot be replaced by two."""

    def __init__(self, captured: Captured) -> None:
        self._captured = captured
        self._surgery = Surgery(captured)
        graph = captured.graphs[False]
        self._calls = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
        self._read = {str(node.target) for one in captured.unlike_graphs() for node in one.find_nodes(op="get_attr")}
        self._names = Counter(id(module) for _, module in captured.named_modules(remove_duplicate=False))
        self._found: dict[fx.Node, str | None] = {}

    def of(self, node: fx.Node) -> str | None:
        """The reason, in one sentence; None if it can be."""
        if node not in self._found:
            self._found[node] = self._of(node)
        return self._found[node]

    def _of(self, node: fx.Node) -> str | None:
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
        if self._names[id(module)] > 1:
            return f"{path} has another name too"
        if len(node.args) != 1 or node.kwargs:
            return f"{path} is called with more than its input"
        if any(name.startswith(f"{path}.") for name in self._read):
            return f"the weight of {path} is read elsewhere too"
        if not module.weight.is_meta and not bool(module.weight.any()):  # type: ignore[operator]
            return f"the weight of {path} is zero"
        return self._surgery.obstacle(path) or self._surgery.tied(path)


def _flattened(concat: fx.Node) -> list[tuple[fx.Node, fx.Node]]:
    """The operands of a concat and of those that it alone reads, each with the concat that it is joined by."""
    joined: Any = concat.args[0] if concat.args else concat.kwargs["tensors"]
    return [
        inner
        for one in joined
        for inner in (_flattened(one) if one.target in CONCATS and len(one.users) == 1 else [(one, concat)])
    ]


def _spatial(layer: Any) -> int:
    """How many axes stand behind that of the channels that a layer mixes."""
    return len(layer.kernel_size) if hasattr(layer, "kernel_size") else 0


def _width(node: fx.Node, spatial: int) -> int:
    return int(node.meta["shape"][-1 - spatial])


_RESAMPLING = (nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)


def commutes(captured: Captured, node: fx.Node) -> bool:
    """Whether a call is linear in each channel alone, the same for all, and without a constant term (law 6)."""
    if node.op == "call_module":
        module = captured.get_submodule(str(node.target))
        return isinstance(module, _RESAMPLING) and not (module._forward_hooks or module._forward_pre_hooks)
    return node.target in (F.interpolate, F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)
