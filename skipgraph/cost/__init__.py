"""FLOPs, bytes, live ranges and peak memory of a `SkipGraph`.

One FLOP is one multiply-add, fvcore's convention. Memory is that of activations, parameters apart, in an eager
forward on a CPU: what the allocator of PyTorch would report.
"""

from __future__ import annotations

from collections import Counter

from skipgraph.capture.program import Program
from skipgraph.collection import no_collection
from skipgraph.cost.clock import Clock, lay_out
from skipgraph.cost.edges import book_edges
from skipgraph.cost.flops import price_operators
from skipgraph.cost.fused import stretches
from skipgraph.cost.nodes import book_flops, book_parameters, book_saved, book_settings
from skipgraph.cost.skips import book_skips
from skipgraph.graph import Cost, SkipGraph

__all__ = ["price"]


def price(graph: SkipGraph, program: Program | None = None) -> None:
    """Fill in what everything costs: ``graph.cost``, and the cost attributes of nodes, edges and skips.

    Parameters
    ----------
    graph : SkipGraph
        With its skips found, if these are to be priced.
    program : Program, optional
        What the graph was built from. Without it (a graph made by hand, or read from a file) the nodes' ``flops`` and
        ``parameters`` are taken as they are, 0 where they are missing, and each block of memory is freed at its last
        use.

    Notes
    -----
    Linear in operators, edges and the lengths of shortcuts. ``peak_bytes`` is what the model holds as its user runs
    it, with every reference that its own code keeps; ``peak_bytes_last_use`` is what a run needs that frees each
    tensor after the last call that reads it. Inputs and outputs belong to the caller throughout, in both.
    """
    with no_collection():
        _price(graph, program)


def _price(graph: SkipGraph, program: Program | None) -> None:
    composites = stretches(program) if program is not None else []
    laid_out = lay_out(graph, program, composites)
    cost = graph.cost = Cost()
    if program is None:
        _book_given(laid_out, cost)
    else:
        flops = price_operators(program, composites)
        cost.flops = sum(flops.by_operator.values())
        cost.flops_by_operator = dict(flops.by_operator.most_common())
        cost.own_rules = tuple(sorted(flops.own_rules))
        cost.unpriced_operators = dict(flops.unpriced.most_common())
        book_flops(laid_out, flops)
        book_parameters(laid_out, program)
        book_settings(laid_out, program)
        cost.saved_bytes = book_saved(laid_out, program, composites)
        # Two layers of a file may be two parameters on the same numbers, which count once.
        places = {
            (one.untyped_storage()._cdata, one.storage_offset(), one.shape): one
            for module in program.modules.values()
            for one in module._parameters.values()
            if one is not None
        }
        parameters = list(places.values())
        cost.parameters = sum(parameter.numel() for parameter in parameters)
        cost.parameter_bytes = sum(parameter.numel() * parameter.itemsize for parameter in parameters)
    peak_tick = _book_memory(laid_out, cost)
    book_edges(graph, laid_out)
    book_skips(graph, laid_out, peak_tick)


def _book_given(laid_out: Clock, cost: Cost) -> None:
    """Sum up what the nodes say themselves."""
    by_operator: Counter[str] = Counter()
    for _, attributes in laid_out.order:
        by_operator[attributes["op"]] += attributes.setdefault("flops", 0)
        cost.parameters += attributes.setdefault("parameters", 0)
    cost.flops = sum(by_operator.values())
    cost.flops_by_operator = {name: flops for name, flops in by_operator.most_common() if flops}


def _book_memory(laid_out: Clock, cost: Cost) -> int:
    """Set the totals of memory and the nodes' ``held_at_peak``; the tick of the peak is returned."""
    memory = laid_out.memory
    cost.steps = memory.steps
    cost.peak_bytes, peak_tick = memory.peak(memory.freed)
    cost.peak_bytes_last_use, _ = memory.peak(memory.unused)
    cost.peak_step = memory.step_of[peak_tick] if memory.ticks else 0
    cost.peak_workspace_bytes = memory.workspace.get(peak_tick, 0)
    inputs = {laid_out.block_of[node] for node, attributes in laid_out.order if attributes["op"] == "input"}
    cost.activation_bytes = sum(memory.nbytes) - sum(memory.nbytes[block] for block in inputs)
    peak_block = [born <= peak_tick < freed for born, freed in zip(memory.born, memory.freed, strict=True)]
    for node, attributes in laid_out.order:
        tick = laid_out.tick_of[node]
        attributes["held_at_peak"] = tick <= peak_tick and peak_block[laid_out.block_of[node]]
        if tick >= peak_tick and not cost.peak_node:
            cost.peak_node = node
    return peak_tick
