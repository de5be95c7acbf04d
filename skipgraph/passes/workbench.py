"""A captured model on which rewrites are done: its graphs of operators, and the edits of its graphs of calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from skipgraph.capture import Captured, capture
from skipgraph.capture.trees import doubled
from skipgraph.cost import price
from skipgraph.errors import CaptureError
from skipgraph.graph import SkipGraph, build
from skipgraph.passes.fx_contexts import switches
from skipgraph.passes.fx_edits import FxEdits
from skipgraph.passes.order import Scheduler, accumulate_in_place, operand_by_operand
from skipgraph.passes.surgery import Surgery
from skipgraph.skips import find_skips

Inputs = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(slots=True)
class Mode:
    """One graph of a captured model: that of evaluation, of training, or of both where they are one.

    ``graph`` is that of its operators, as it was before any edit.
    """

    training: bool
    graph: SkipGraph
    edits: FxEdits


class Workbench:
    """A captured model that is being rewritten, in place.

    Parameters
    ----------
    captured : Captured
        It is edited: give a copy.
    inputs : tuple
        Positional and keyword inputs.
    eval_only : bool
        Leave the graph of training as it is.

    Attributes
    ----------
    modes : list of Mode
    made : dict
        Site -> the calls that its rewrite has put into the graph of evaluation.
    """

    def __init__(self, captured: Captured, inputs: Inputs, *, eval_only: bool = False) -> None:
        self.captured = captured
        self.inputs = inputs
        self.surgery = Surgery(captured)
        self.made: dict[str, set[fx.Node]] = {}
        one = captured.graphs[False] is captured.graphs[True]
        if one and eval_only:
            captured.graphs = {False: captured.copy().graphs[False], True: captured.graphs[True]}
        drawings = {
            mode: drawn(captured, inputs, train=mode) for mode in ([False] if one or eval_only else [False, True])
        }
        self.modes = [
            Mode(mode, drawing, FxEdits(captured, captured.graphs[mode], self.surgery, drawing))
            for mode, drawing in drawings.items()
        ]

    def finish(self) -> None:
        """Order what was edited, add up in place, and make the model run."""
        for mode in self.modes:
            mode.edits.drop_single_concats()
            if not switches(mode.edits.graph):  # what is moved would run under something else
                operand_by_operand(mode.edits)
            accumulate_in_place(mode.edits)
        self.captured.recompile()
        for mode in self.modes:
            if mode.edits.adds and not switches(mode.edits.graph):
                Scheduler(mode.edits, drawn(self.captured, self.inputs, train=mode.training)).run()
        self.captured.recompile()


def drawn(model: nn.Module, inputs: Inputs, *, train: bool = False) -> SkipGraph:
    """The graph of the operators of a model, its skips found, priced; every node of a captured one knows its call.

    In training with two samples where one does not do.
    """
    try:
        program = capture(model, *inputs, train=train)
    except CaptureError as error:
        two = doubled(inputs) if train else None
        if two is None:
            raise
        try:
            program = capture(model, *two, train=train)
        except CaptureError:
            raise error from None
    graph = build(program)
    find_skips(graph)
    price(graph, program)
    return graph
