"""What may be done to a model without moving the count of a single skip, and what takes away exactly one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import nn

from skipgraph.capture import capture
from skipgraph.graph import Counts, Merge, build
from skipgraph.skips import find_skips
from tests.helpers.tracing import Inputs, detected
from tests.skips import surgery
from tests.skips.respelling import (
    ADDITIONS,
    CONCATS,
    SUMS,
    Addition,
    ConcatAlias,
    ExplicitPadding,
    NestedConcat,
    Reassociated,
    Respelling,
    Swapped,
    Under,
    Without,
)
from tests.skips.zoo import SPECIMENS, Specimen


@cache
def plain(name: str, train: bool = False) -> Counts:
    specimen = SPECIMENS[name]
    return detected(specimen.build(), specimen.inputs(), train=train).counts


# -- transformations: a specimen -> its counts, and in how many places it was changed ------------------------------------

Outcome = tuple[Counts, int]
Transformation = Callable[[Specimen], Outcome]


def operated(specimen: Specimen, operation: Callable[[nn.Module], int], *, train: bool = False) -> Outcome:
    model = specimen.build()
    places = operation(model)
    return detected(model, specimen.inputs(), train=train).counts, places


def respelled(specimen: Specimen, mode: Callable[[], Respelling]) -> Outcome:
    under = Under(mode(), specimen.build())
    counts = detected(under, specimen.inputs()).counts
    return counts, under.mode.places


def reassociated(specimen: Specimen) -> Outcome:
    model, inputs, mode = specimen.build(), specimen.inputs(), Reassociated()
    args, kwargs = ((), inputs) if isinstance(inputs, dict) else (inputs, {})
    mode.watch(lambda: model(*args, **kwargs))
    return detected(Under(mode, model), inputs).counts, mode.places


def conditioned(specimen: Specimen) -> Outcome:
    model = surgery.WithCondition(specimen.build())
    inputs = specimen.inputs()
    time = torch.empty(1, 1, device="meta")
    with_time: Inputs = {"time": time, **inputs} if isinstance(inputs, dict) else (time, *inputs)
    return detected(model, with_time).counts, model.places


def wrapped(specimen: Specimen) -> Outcome:
    model = specimen.build()
    places = surgery.wrap_layers(model)
    return detected(nn.Sequential(nn.Sequential(model)), specimen.inputs()).counts, places


def widened(specimen: Specimen) -> Outcome:
    wide = specimen.build(**specimen.wider)
    more = sum(p.numel() for p in wide.parameters()) - sum(p.numel() for p in specimen.build().parameters())
    return detected(wide, specimen.inputs()).counts, more


def batched(specimen: Specimen) -> Outcome:
    return detected(specimen.build(), specimen.inputs(batch=3)).counts, 1


def trained(specimen: Specimen) -> Outcome:
    return plain(specimen.name, train=True), 1


TRANSFORMATIONS: dict[str, Transformation] = {
    "renamed": lambda specimen: operated(specimen, surgery.rename),
    "wrapped": wrapped,
    "dropout": lambda specimen: operated(specimen, surgery.put_in_dropout),
    "dropout in training": lambda specimen: operated(specimen, surgery.put_in_dropout, train=True),
    "padding layers": lambda specimen: operated(specimen, surgery.pad_explicitly),
    "padding calls": lambda specimen: respelled(specimen, ExplicitPadding),
    "dead branches": lambda specimen: operated(specimen, surgery.add_dead_branches),
    "conditions": conditioned,
    "concat alias": lambda specimen: respelled(specimen, ConcatAlias),
    "concats nested left": lambda specimen: respelled(specimen, partial(NestedConcat, left=True)),
    "concats nested right": lambda specimen: respelled(specimen, partial(NestedConcat, left=False)),
    "operands swapped": lambda specimen: respelled(specimen, Swapped),
    "sums reassociated": reassociated,
    "width": widened,
    "batch": batched,
    "training": trained,
} | {f"sums: {words}": lambda specimen, words=words: respelled(specimen, partial(Addition, words)) for words in ADDITIONS}


# -- one skip taken out --------------------------------------------------------------------------------------------------


def without(counts: Counts, merge: Merge) -> Counts:
    """What is left of ``counts`` when ``merge`` is no skip any more."""
    left = asdict(counts)
    units = merge.skips[:1] if merge.kind == "concat" else merge.skips
    for skip in units:
        span, shortcut = (merge.span, merge.shortcut) if merge.kind == "concat" else (skip.span, skip.shortcut)
        for word in ("skips", skip.kind, span, shortcut):
            left[str(word)] -= 1
    left["edges"] -= sum(skip.edges for skip in merge.skips)
    return Counts(**left)


def removals(name: str) -> list[tuple[Merge, Counts]]:
    """Every skip of a model whose merge is one call, with what is found once its shortcut operands are zeros."""
    specimen = SPECIMENS[name]
    model, inputs = specimen.build(), specimen.inputs()
    args, kwargs = ((), inputs) if isinstance(inputs, dict) else (inputs, {})
    program = capture(model, args, kwargs)
    graph = build(program)
    find_skips(graph)
    results = []
    for merge in graph.merges:
        call = program.operators[graph.nodes[merge.node]["operators"][0]].call if merge.skips else None
        functions = CONCATS if merge.kind == "concat" else SUMS
        if call is None or call.function not in functions or len(merge.nodes) > 1:
            continue
        number = [c.index for c in program.calls if c.function in functions].index(call.index)
        mode = Without(functions, number, {skip.operand for skip in merge.skips})
        results.append((merge, detected(Under(mode, model), inputs).counts))
        assert mode.places == 1
    return results
