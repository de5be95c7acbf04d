"""The whole way from a module and its inputs to a priced graph with its skips."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from skipgraph.capture import capture
from skipgraph.cost import price
from skipgraph.errors import CaptureError
from skipgraph.graph import SkipGraph, build
from skipgraph.passes import what_if
from skipgraph.skips import find_skips
from skipgraph.sources import Source
from skipgraph.sources.inputs import as_example


@dataclass(slots=True)
class Inspection:
    """Everything that a report tells of one model.

    Attributes
    ----------
    spec : str
        How the user named the model.
    weights : str
        ``"random"``, ``"pretrained"`` or ``"file"``.
    graph : SkipGraph
        With merges, skips, counts and cost filled in.
    inputs : list of dict
        ``{"name", "shape", "dtype"}`` of every input tensor.
    method : str
        What the forward ran on: ``"meta"``, ``"fake"`` or ``"export"``.
    opaque : list of tuple
        ``(module path, reason)`` of every module that could not be looked into.
    training : bool
        Whether this is the training graph.
    warnings : list of str
        What the user should know of how the model was built and captured.
    """

    spec: str
    weights: str
    graph: SkipGraph
    inputs: list[dict[str, Any]]
    method: str
    opaque: list[tuple[str, str]] = field(default_factory=list)
    training: bool = False
    warnings: list[str] = field(default_factory=list)


def inspect(
    model: torch.nn.Module,
    example_inputs: Any,
    *,
    train: bool = False,
    spec: str | None = None,
    weights: str = "random",
) -> Inspection:
    """Find, classify and price every skip of a model.

    Parameters
    ----------
    model : torch.nn.Module
        Any model that runs on these inputs. It is not changed, and its parameters may be on the meta device.
    example_inputs : tuple, list, dict or tensor
        Positional inputs, keyword inputs, or the only input. Their values are not looked at unless the model does.
    train : bool
        Look at the training graph.
    spec : str, optional
        What to call the model in reports: the name of its class if it is not given.
    weights : str
        What to call its weights in reports.

    Returns
    -------
    Inspection
        The graph, and how it was found.

    Raises
    ------
    CaptureError
        If the forward raises, or depends on data.

    Examples
    --------
    >>> import skipgraph, torch
    >>> inspection = skipgraph.inspect(torch.nn.Linear(3, 4), torch.empty(1, 3))
    >>> inspection.graph.cost.flops, inspection.graph.counts.skips
    (12, 0)
    """
    args, kwargs = as_example(example_inputs)
    return _inspected(spec or type(model).__name__, weights, model, args, kwargs, train)


def _inspected(
    spec: str, weights: str, model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], train: bool
) -> Inspection:
    program = capture(model, args, kwargs, train=train)
    graph = build(program)
    find_skips(graph)
    price(graph, program)
    what_if(graph)
    return Inspection(
        spec=spec,
        weights=weights,
        graph=graph,
        inputs=[
            {"name": value.name, "shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
            for value in program.inputs
        ],
        method=program.method,
        opaque=list(program.opaque),
        training=program.training,
        warnings=list(program.warnings),
    )


def inspect_source(source: Source, *, train: bool = False) -> Inspection:
    """`inspect` what `skipgraph.sources.load` has loaded.

    Where the forward reads values, which a model that was built without data may have had otherwise, it is run again
    on one that was built with data.

    Raises
    ------
    CaptureError
        If the forward raises, or depends on data.
    """

    def inspected(source: Source) -> Inspection:
        return _inspected(source.spec, source.weights, source.model, source.args, source.kwargs, train)

    try:
        inspection = inspected(source)
        reason = "; ".join(dict.fromkeys(why for _, why in inspection.opaque))
        if inspection.method == "export":
            reason = inspection.warnings[-1]
    except CaptureError as error:
        if not error.reads_values or not source.on_meta:
            raise
        reason = error.message
    if reason and source.on_meta:
        source = source.with_data()
        inspection = inspected(source)
        inspection.warnings.insert(0, f"the model was built on the CPU, because its forward reads values: {reason}")
    if train and source.fixed_mode:
        inspection.warnings.insert(0, "an exported program stays in the mode in which it was exported, --train or not")
    inspection.warnings[:0] = source.notes
    return inspection


def trace(model: torch.nn.Module, example_inputs: Any, *, train: bool = False) -> SkipGraph:
    """The graph of a model, with every skip in it found, classified and priced.

    Parameters and errors are those of `inspect`.

    Returns
    -------
    SkipGraph
        A `networkx.MultiDiGraph` of operators, keyed by operand position.

    Examples
    --------
    >>> import skipgraph, torch
    >>> class Residual(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.body = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 8))
    ...
    ...     def forward(self, x):
    ...         return x + self.body(x)
    >>> graph = skipgraph.trace(Residual(), (torch.empty(1, 8),))
    >>> [(skip.kind, skip.span, skip.shortcut) for skip in graph.skips]
    [('add', 'short', 'identity')]
    """
    return inspect(model, example_inputs, train=train).graph
