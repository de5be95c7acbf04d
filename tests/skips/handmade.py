"""Graphs of operators made by hand, without a model behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from skipgraph.graph import SkipGraph
from skipgraph.ops import Kind

KINDS = {
    "input": Kind.INPUT,
    "convolution": Kind.LAYER,
    "relu": Kind.ACTIVATION,
    "batch_norm": Kind.NORM,
    "add": Kind.SUM,
    "cat": Kind.CONCAT,
}
POSITIONS = 16


@dataclass(frozen=True)
class Step:
    """One operator over earlier ones, which are given by their number."""

    op: str
    operands: tuple[int, ...] = ()
    output: bool = False
    positions: int = POSITIONS


def handmade(steps: Sequence[Step], names: Sequence[str] | None = None) -> SkipGraph:
    """The graph of ``steps``, in that order of execution; all results are alike in shape."""
    graph = SkipGraph()
    names = names or [f"{step.op}{number}" for number, step in enumerate(steps)]
    for number, (name, step) in enumerate(zip(names, steps, strict=True)):
        kind = KINDS[step.op]
        graph.add_node(
            name,
            op=step.op,
            kind=kind.value,
            call=step.op,
            module="",
            index=number,
            shape=(1, 4, step.positions),
            dtype="float32",
            layer=kind is Kind.LAYER,
            nonlinear=kind is Kind.ACTIVATION,
            axis=1 if kind is Kind.CONCAT else None,
            axis_role="feature" if kind is Kind.CONCAT else None,
            slice=None,
            operators=(),
            positions=step.positions,
            resamples=False,
            constant=False,
            live=True,
            output=step.output,
        )
        for place, operand in enumerate(step.operands):
            graph.add_edge(names[operand], name, key=place, operand=place)
    return graph
