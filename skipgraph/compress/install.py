"""Puts pairs of layers in the place of layers, in a captured model."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import fx, nn
from torch.func import functional_call

from skipgraph.capture import Captured
from skipgraph.compress.choose import Candidate
from skipgraph.compress.layers import blank


def with_pairs(original: Captured, candidates: Iterable[Candidate]) -> Captured:
    """A copy with pairs of layers whose weights mean nothing: to see what they cost."""
    model = original.copy()
    candidates = list(candidates)
    for one in candidates:
        model.set_submodule(one.path, blank(model.get_submodule(one.path), one.rank, one.form))
    expand(model, [one.path for one in candidates])
    return model


def expand(model: Captured, paths: Iterable[str]) -> None:
    """Let the graphs of a model call both layers of each pair, where they call the pair as one."""
    wanted = set(paths)
    for graph in model.unlike_graphs():
        for node in list(graph.nodes):
            if node.op == "call_module" and str(node.target) in wanted:
                _expand(model, graph, node)
    model.recompile()


def _expand(model: Captured, graph: fx.Graph, node: fx.Node) -> None:
    path = str(node.target)
    pair = model.get_submodule(path)
    assert isinstance(pair, nn.Sequential)
    graph.scope = node.meta.get("scope", ())  # type: ignore[attr-defined]
    with graph.inserting_before(node):
        first = graph.call_module(f"{path}.project", node.args, node.kwargs)
        second = graph.call_module(f"{path}.restore", (first,))
    graph.scope = ()  # type: ignore[attr-defined]
    second.meta["shape"] = node.meta["shape"]
    first.meta["shape"] = _between(pair.project, node.args[0].meta["shape"])  # type: ignore[arg-type, union-attr]
    node.replace_all_uses_with(second)
    graph.erase_node(node)


def _between(project: nn.Module, read: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that a layer makes of one."""
    shadows = {name: tensor.to("meta") for name, tensor in project.named_parameters()}
    dtype = next(iter(shadows.values())).dtype
    made = functional_call(project, shadows, (torch.empty(read, device="meta", dtype=dtype),))
    return tuple(made.shape)
