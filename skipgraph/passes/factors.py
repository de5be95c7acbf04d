"""The operands of a sum as linear maps: which layers could be one layer on a concat."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from skipgraph.graph import Merge, NodeAttributes, SkipGraph
from skipgraph.ops import Kind

NO_LAYER = "is no linear layer's result"
_PRODUCTS = {"mm", "addmm", "linear"}


@dataclass(frozen=True, slots=True)
class Factor:
    """One operand of a sum: ``layer`` applied to ``tensor``, or ``tensor`` itself where there is no layer to merge.

    ``norm`` is a batch norm behind the layer that is folded into it, ``between`` are the views and biases from the
    layer to the sum, ``note`` says why there is no layer.
    """

    tensor: str
    layer: str | None = None
    between: tuple[str, ...] = ()
    bias: bool = False
    note: str = ""
    norm: str | None = None


@dataclass(frozen=True, slots=True)
class Window:
    """Kernel, stride, padding and dilation of a convolution; empty for a linear layer."""

    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()

    @property
    def volume(self) -> int:
        """Taps of the kernel."""
        return math.prod(self.kernel)

    def holds(self, other: Window) -> bool:
        """Whether ``other`` is this window with zeros around it."""
        if self.stride != other.stride or (self.dilation != other.dilation and other.volume > 1):
            return False
        for size, small, padding, less, dilation in zip(
            self.kernel, other.kernel, self.padding, other.padding, self.dilation, strict=True
        ):
            shift, rest = divmod(padding - less, dilation)
            if rest or not 0 <= shift <= size - small:
                return False
        return True


class Factoring:
    """Finds the factors of sums in one graph; batch norms are parts of their layers with ``fold_norms``."""

    def __init__(self, graph: SkipGraph, nodes: dict[str, NodeAttributes], *, fold_norms: bool = False) -> None:
        self._fold_norms = fold_norms
        self._graph = graph
        self._nodes = nodes
        self._runs = Counter(node["module"] for node in nodes.values() if node.get("layer"))

    def factors(self, merge: Merge) -> tuple[list[Factor], Window]:
        """One factor an operand, and the window of the merged layer.

        Layers are left as they are where they are not the sum's alone, or where their windows do not fit together.
        """
        factors = [self._factor(operand) for operand in merge.operands]
        window = self._common(factors)
        if window is None:
            layers = [factor.layer for factor in factors if factor.layer]
            note = f"{' and '.join(layers)} cannot share one window"
            factors = [Factor(operand, note=note) for operand in merge.operands]
            window = self._identity(merge.operands[0])
        return factors, window

    def _factor(self, operand: str) -> Factor:
        nodes, graph = self._nodes, self._graph
        node, between, bias = operand, [], False
        while self._alone(node) and self._passes(nodes[node]):
            bias = bias or nodes[node]["kind"] == Kind.LINEAR_MAP.value
            between.append(node)
            node = next(iter(graph.pred[node]))
        norm = None
        if self._fold_norms and nodes[node]["op"] == "batch_norm" and self._alone(node) and graph.pred[node]:
            norm, node = node, next(iter(graph.pred[node]))
            between.append(norm)
        attributes = nodes[node]
        if attributes["kind"] == Kind.NORM.value:
            inner = next(iter(graph.pred[node]), None)
            if inner is not None and nodes[inner].get("layer"):
                return Factor(operand, note=f"{node} stands between {inner} and the sum")
        if not self._mergeable(attributes) or len(graph.pred[node]) != 1:
            return Factor(operand, note=f"{operand} {NO_LAYER}")
        if not self._alone(node):
            return Factor(operand, note=f"{node} is read by others too")
        if self._runs[attributes["module"]] > 1 or not attributes["parameters"]:
            return Factor(operand, note=f"{node} shares its weight with another call")
        bias = bias or attributes["op"] == "addmm" or bool(attributes.get("settings", {}).get("bias"))
        return Factor(self._tensor(node, operand), node, tuple(between), bias or norm is not None, norm=norm)

    def _tensor(self, layer: str, operand: str) -> str:
        """What a layer reads, before the view that a linear layer sees it through."""
        nodes, graph = self._nodes, self._graph
        tensor = next(iter(graph.pred[layer]))
        if nodes[layer]["op"] in _PRODUCTS and nodes[tensor]["kind"] == Kind.VIEW.value:
            viewed = next(iter(graph.pred[tensor]))
            if nodes[viewed]["shape"][:-1] == nodes[operand]["shape"][:-1]:
                return str(viewed)
        return str(tensor)

    def _alone(self, node: str) -> bool:
        """Whether one operand of one node is all that reads ``node``."""
        readers = self._graph.adj[node]
        return (
            len(readers) == 1 and all(len(edges) == 1 for edges in readers.values()) and not self._nodes[node]["output"]
        )

    def _passes(self, attributes: NodeAttributes) -> bool:
        """A view, or the bias of a layer as an operator of its own."""
        bias = attributes["op"] == "add" and attributes["kind"] == Kind.LINEAR_MAP.value and attributes["parameters"]
        return attributes["kind"] == Kind.VIEW.value or bool(bias)

    def _mergeable(self, attributes: NodeAttributes) -> bool:
        if attributes["op"] == "convolution":
            settings = attributes.get("settings", {})
            return settings.get("groups") == 1 and not settings["transposed"]
        return attributes["op"] in _PRODUCTS and attributes["kind"] == Kind.LAYER.value

    def window(self, layer: str) -> Window:
        """The window of a layer."""
        settings = self._nodes[layer].get("settings")
        if not settings:
            return Window()
        return Window(*(tuple(settings[name]) for name in ("kernel", "stride", "padding", "dilation")))

    def _identity(self, tensor: str) -> Window:
        """The window of an identity on images, or on anything else."""
        rank = len(self._nodes[tensor]["shape"]) - 2
        one = (1,) * rank
        return Window(one, one, (0,) * rank, one) if self.axis(tensor) == 1 and rank > 0 else Window()

    def _common(self, factors: list[Factor]) -> Window | None:
        """The window that holds those of all layers, and the identity where a factor has none."""
        windows = [self.window(factor.layer) for factor in factors if factor.layer]
        if not windows:
            return self._identity(factors[0].tensor)
        if len(windows) < len(factors):
            rank = len(windows[0].kernel)
            windows.append(Window((1,) * rank, (1,) * rank, (0,) * rank, (1,) * rank))
        largest = max(windows, key=lambda window: window.volume)
        shapes = [self._nodes[factor.tensor]["shape"] for factor in factors]
        axis = 1 if largest.kernel else -1
        places = {tuple(size for at, size in enumerate(shape) if at != axis % len(shape)) for shape in shapes}
        fits = all(len(window.kernel) == len(largest.kernel) and largest.holds(window) for window in windows)
        return largest if fits and len(places) == 1 else None

    def axis(self, node: str) -> int:
        """The feature axis of a tensor, by its number of positions: the second if all that follows are positions."""
        attributes = self._nodes[node]
        shape = attributes["shape"]
        return 1 if len(shape) > 2 and math.prod(shape[2:]) == attributes.get("positions") else len(shape) - 1
