"""The way back from layers of lower rank: to concats of what is projected, or to the original and its weights."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn

from skipgraph.capture import Captured
from skipgraph.compress.factor import Form
from skipgraph.compress.layers import alike, repeated, sizes
from skipgraph.compress.placing import Fold, projections
from skipgraph.compress.sites import commutes
from skipgraph.errors import PlanError

_ADDITIONS = {operator.add, operator.iadd, torch.add, "add", "add_"}
_REMEDY = "Give the directory as it was emitted, or the plan that belongs to this model."


def rejoined(model: Captured, counts: Mapping[str, int], axes: Mapping[str, int]) -> None:
    """Concats of projected operands in the place of their sums: ``W'(u + v) = [W' | W']·cat(u, v)``.

    The layer behind is as many times as wide as there are operands, its parts equal at first.

    Parameters
    ----------
    model : Captured
        Edited in place.
    counts, axes : dict
        Path of a pair of layers -> how many operands are added up in front of its second one; along which axis they
        are joined.

    Raises
    ------
    PlanError
        If the model does not add them up.
    """
    for graph in model.unlike_graphs():
        calls = {str(node.target): node for node in graph.nodes if node.op == "call_module"}
        for path, count in counts.items():
            second = calls.get(f"{path}.restore")
            if second is None:
                raise PlanError(f"the model does not call {path}.restore", _REMEDY)
            terms = _terms(second.all_input_nodes[0], count)
            if terms is None:
                raise PlanError(f"the {count} projections in front of {path}.restore are not added up", _REMEDY)
            _join(graph, second, terms, axes[path])
    for path, count in counts.items():
        model.set_submodule(f"{path}.restore", repeated(model.get_submodule(f"{path}.restore"), count))
    model.recompile()


def _terms(total: fx.Node, count: int) -> list[fx.Node] | None:
    """What a sum of ``count`` terms adds up, in order."""
    terms = [total]
    while len(terms) < count:
        place = next((place for place, one in enumerate(terms) if one.target in _ADDITIONS), None)
        if place is None:
            return None
        terms[place : place + 1] = terms[place].all_input_nodes
    return terms


def _join(graph: fx.Graph, second: fx.Node, terms: Sequence[fx.Node], axis: int) -> None:
    total = second.all_input_nodes[0]
    with graph.inserting_before(second):
        joined = graph.call_function(torch.cat, (list(terms), axis))
    joined.meta = dict(second.meta)
    second.replace_input_with(total, joined)
    while not total.users and total.target in _ADDITIONS:
        read = [one for one in total.all_input_nodes if one.target in _ADDITIONS]
        graph.erase_node(total)
        if not read:
            break
        total = read[0]


def unplaced(model: Captured, paths: Iterable[str], folds: Sequence[Fold]) -> None:
    """Projections where they were before they were placed: on the operands themselves.

    The channels of layers that projections were folded into are there again, with weights that mean nothing.

    Parameters
    ----------
    model : Captured
        Edited in place.
    paths : iterable of str
        Of the pairs of layers.
    folds : sequence of Fold
    """
    wanted = set(paths)
    for fold in folds:
        source: Any = model.get_submodule(fold.source)
        plain = model.get_submodule(fold.path)
        if not isinstance(plain, nn.Identity):
            raise PlanError(f"{fold.path} is not folded into {fold.source}", _REMEDY)
        model.set_submodule(fold.path, alike(source, fold.width, sizes(source)[0], kernel=False, bias=False))
        model.set_submodule(fold.source, alike(source, sizes(source)[1], fold.width, bias=source.bias is not None))
    for graph in model.unlike_graphs():
        calls = {str(node.target): node for node in graph.nodes if node.op == "call_module"}
        for fold in folds:
            if fold.source not in calls:
                raise PlanError(f"the model does not call {fold.source}", _REMEDY)
            _project(graph, calls[fold.source], fold)
        for node in list(projections(model, graph, wanted)):
            _delay(model, node)
    model.recompile()


def _project(graph: fx.Graph, source: fx.Node, fold: Fold) -> None:
    with graph.inserting_after(source):
        projection = graph.call_module(fold.path, ())
    projection.meta = dict(source.meta)
    source.replace_all_uses_with(projection)
    projection.args = (source,)


def _delay(model: Captured, node: fx.Node) -> None:
    """Put a projection behind what it was put in front of."""
    while len(node.users) == 1:
        reader = next(iter(node.users))
        if not commutes(model, reader):
            return
        source = node.all_input_nodes[0]
        reader.replace_all_uses_with(node)
        reader.replace_input_with(node, source)
        node.args = (reader,)
        reader.append(node)


def whole_again(model: Captured, forms: Mapping[str, tuple[Form, bool]]) -> None:
    """One layer in the place of each pair, its weights at random.

    Parameters
    ----------
    model : Captured
        Edited in place; its pairs read concats, or what their layers read.
    forms : dict
        Path of a pair -> its form, and whether the layer had a bias.

    Raises
    ------
    PlanError
        If the pairs are not there.
    """
    for path, (form, bias) in forms.items():
        pair: Any = model.get_submodule(path)
        kernel = pair.restore if form == "project" else pair.project
        for graph in model.unlike_graphs():
            _call_one(graph, path)
        made = alike(kernel, sizes(pair.project)[1], sizes(pair.restore)[0], bias=bias)
        model.set_submodule(path, made.requires_grad_(kernel.weight.requires_grad).train(kernel.training))
    model.recompile()


def _call_one(graph: fx.Graph, path: str) -> None:
    for node in list(graph.nodes):
        if node.op == "call_module" and node.target == f"{path}.restore":
            first = node.all_input_nodes[0]
            if first.target != f"{path}.project":
                raise PlanError(f"{path}.restore does not read {path}.project", _REMEDY)
            node.target, node.args = path, first.args
            graph.erase_node(first)
