"""How detection and cost grow with the graph: graphs made by hand, ten times the size, ratio of CPU seconds.

    python benchmarks/scaling.py [--small]

Chains of residual blocks (up to 100,000 nodes), the same with one skip around it all, the same where every block adds
a projection of a second input (of one position, as a time embedding has, and of many), and dense blocks as torchvision
spells them (300 layers have 45,150 edges). Near-linear means at most 12 times the time for 10 times nodes + edges.
Last, 200 nested U-Net skips against the capture of that network.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Callable

import torch

from skipgraph.capture import capture
from skipgraph.cost import price
from skipgraph.graph import SkipGraph, build
from skipgraph.skips import find_skips

_LINEAR = 12.0
_NESTED = 3.0


class Sketch:
    """Writes a graph node by node."""

    def __init__(self) -> None:
        self.graph = SkipGraph(modules={"": "Sketch"}, index_edges=[])

    def add(self, kind: str, *operands: str, positions: int = 64, layer: bool = False, nonlinear: bool = False) -> str:
        """Append a node and return its name."""
        graph = self.graph
        name = f"n{len(graph)}"
        graph.add_node(
            name,
            op={"sum": "add", "concat": "cat"}.get(kind, kind),
            kind=kind,
            call="",
            module="",
            index=len(graph),
            shape=(1, 8, positions),
            dtype="float32",
            layer=layer,
            nonlinear=nonlinear,
            axis=1 if kind == "concat" else None,
            axis_role="feature" if kind == "concat" else None,
            slice=None,
            operators=(),
            positions=positions,
            resamples=False,
            constant=False,
            live=True,
            output=False,
            flops=64 if layer else 0,
        )
        for place, operand in enumerate(operands):
            graph.add_edge(operand, name, key=place, operand=place)
        return name

    def convolution(self, operand: str, positions: int = 64) -> str:
        """A layer and an activation."""
        return self.add(
            "activation",
            self.add("layer", operand, positions=positions, layer=True),
            positions=positions,
            nonlinear=True,
        )

    def done(self, output: str) -> SkipGraph:
        """The graph, with its output."""
        self.graph.nodes[output]["output"] = True
        return self.graph


def chain(nodes: int) -> SkipGraph:
    """Residual blocks in series."""
    sketch = Sketch()
    x = sketch.add("input")
    while len(sketch.graph) < nodes:
        x = sketch.add("sum", x, sketch.convolution(sketch.convolution(x)))
    return sketch.done(x)


def wrapped_chain(nodes: int) -> SkipGraph:
    """Residual blocks in series, and one skip around them all."""
    sketch = Sketch()
    first = x = sketch.add("input")
    while len(sketch.graph) < nodes:
        x = sketch.add("sum", x, sketch.convolution(sketch.convolution(x)))
    return sketch.done(sketch.add("sum", first, x))


def conditioned_chain(nodes: int, positions: int = 1) -> SkipGraph:
    """Residual blocks in series; each adds a projection of a second input inside."""
    sketch = Sketch()
    x, second = sketch.add("input"), sketch.add("input", positions=positions)
    while len(sketch.graph) < nodes:
        condition = sketch.add("layer", second, positions=positions, layer=True)
        inner = sketch.add("sum", sketch.convolution(x), condition)
        x = sketch.add("sum", x, sketch.convolution(inner))
    return sketch.done(x)


def many_inputs_chain(nodes: int) -> SkipGraph:
    """Residual blocks in series; each adds a projection of an input of its own."""
    sketch = Sketch()
    x = sketch.add("input")
    conditions = [sketch.add("input") for _ in range(nodes // 9)]
    for condition in conditions:
        inner = sketch.add("sum", sketch.convolution(x), sketch.add("layer", condition, layer=True))
        x = sketch.add("sum", x, sketch.convolution(inner))
    return sketch.done(x)


def dense_block(edges: int) -> SkipGraph:
    """A dense block whose concats read every earlier layer, with about so many concat edges."""
    sketch = Sketch()
    features = [sketch.add("input")]
    while len(features) * (len(features) + 1) // 2 < edges:
        x = features[0] if len(features) == 1 else sketch.add("concat", *features)
        features.append(sketch.convolution(x))
    return sketch.done(sketch.add("concat", *features))


class NestedUNet(torch.nn.Module):
    """Levels around one another, each with a long concat, without resampling beyond the first few."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.down = torch.nn.ModuleList(torch.nn.Conv2d(4, 4, 3, padding=1) for _ in range(levels))
        self.up = torch.nn.ModuleList(torch.nn.Conv2d(8, 4, 3, padding=1) for _ in range(levels))
        self.bottom = torch.nn.Sequential(
            torch.nn.MaxPool2d(4),
            torch.nn.Conv2d(4, 4, 3, padding=1),
            torch.nn.ReLU(),
            torch.nn.Upsample(scale_factor=4),
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Down, through the bottom, and up."""
        skips = []
        for layer in self.down:
            image = torch.relu(layer(image))
            skips.append(image)
        image = self.bottom(image)
        for layer in self.up:
            image = torch.relu(layer(torch.cat([skips.pop(), image], dim=1)))
        return image


def seconds(make: Callable[[], SkipGraph], times: int) -> float:
    """CPU seconds of detection and cost, the best of several."""
    best = float("inf")
    for _ in range(times):
        graph = make()
        gc.collect()
        began = time.process_time()
        find_skips(graph)
        price(graph, None)
        best = min(best, time.process_time() - began)
    return best


def nested(levels: int) -> bool:
    """Compare detection with capture on nested U-Net skips; True if it takes too long or finds the wrong number."""
    with torch.no_grad(), torch.device("meta"):
        model, image = NestedUNet(levels).eval(), torch.empty(1, 4, 64, 64)
        capture(model, (image,))
        began = time.process_time()
        program = capture(model, (image,))
        captured = time.process_time() - began
    graph = build(program)
    began = time.process_time()
    find_skips(graph)
    ratio = (time.process_time() - began) / captured
    print(f"{graph.counts.long} nested U-Net skips: {ratio:.2f} times their capture")
    return ratio > _NESTED or graph.counts.long != levels


def main() -> int:
    """Print the table; 1 if something grows faster than it should."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a tenth of the sizes")
    scale = 10 if parser.parse_args().small else 1
    failed = nested(200 // scale)
    cases: dict[str, tuple[Callable[[int], SkipGraph], int]] = {
        "residual chain": (chain, 100_000 // scale),
        "one skip around it": (wrapped_chain, 100_000 // scale),
        "time embedding": (conditioned_chain, 100_000 // scale),
        "inputs of their own": (many_inputs_chain, 100_000 // scale),
        "dense block": (dense_block, 45_150 // scale),
    }
    print(f"{'case':22} {'nodes':>8} {'edges':>8} {'seconds':>9}   ten times the size of {'':>8} takes")
    for name, (make, size) in cases.items():
        graph = make(size)
        small = seconds(lambda make=make, size=size: make(size // 10), 3)
        large = seconds(lambda make=make, size=size: make(size), 2)
        ratio = large / small
        failed |= ratio > _LINEAR
        nodes, edges = len(graph), graph.number_of_edges()
        print(f"{name:22} {nodes:8} {edges:8} {large:9.2f}   {small:24.3f} s {ratio:9.1f} times", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
