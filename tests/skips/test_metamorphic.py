"""What may be done to a model without moving the count of a single skip, and what takes away exactly one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from functools import cache, partial

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


# -- transformations: a specimen -> its counts, and in how many places it was changed ----------------------------------

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
    condition = torch.empty(2, 1, device="meta")
    both: Inputs = {"condition": condition, **inputs} if isinstance(inputs, dict) else (condition, *inputs)
    return detected(model, both).counts, model.places


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
} | {
    f"sums: {words}": lambda specimen, words=words: respelled(specimen, partial(Addition, words)) for words in ADDITIONS
}

# Which models each of them is tried on: those that have something for it to do.
TABLE = {
    "renamed": "attention_unet densenet dual_path resnet18 swin uvit smp_unet selective_kernel",
    "wrapped": "attention_unet densenet resnet resnet18 inception transformer_encoder vision_transformer smp_fpn",
    "dropout": "attention_unet csp densenet dla dual_path inception resnet squeeze_excitation unet_plus_plus uvit",
    "dropout in training": "csp dual_path fpn transformer_encoder unet_sum vision_transformer smp_unet resnet18",
    "padding layers": "attention_unet conditioned_unet csp densenet hrnet resnet18 unet_sum googlenet convnext",
    "padding calls": "dla dual_path fpn squeeze_excitation unet_plus_plus smp_fpn smp_unet selective_kernel",
    "dead branches": "attention_unet csp densenet dla dual_path inception resnet18 unet_sum uvit smp_unet",
    "conditions": "attention_unet conditioned_unet csp densenet dual_path fpn googlenet parallel_attention resnet "
    "squeeze_excitation transformer_encoder unet_plus_plus unet_sum uvit swin smp_unet selective_kernel",
    "concat alias": "attention_unet conditioned_unet csp densenet dual_path googlenet uvit smp_unet unet_plus_plus",
    "concats nested left": "csp dla inception unet_plus_plus swin googlenet",
    "concats nested right": "csp dla inception unet_plus_plus swin googlenet",
    "operands swapped": "attention_unet conditioned_unet csp densenet dla dual_path fpn highway hrnet inception "
    "parallel_attention resnet18 transformer_encoder unet_plus_plus uvit wavenet swin convnext smp_linknet",
    "sums reassociated": "parallel_attention wavenet hrnet_library three_operands polynomial collected",
    "width": "attention_unet conditioned_unet csp densenet dla dual_path fpn highway hrnet inception "
    "parallel_attention resnet squeeze_excitation unet_plus_plus unet_sum wavenet vision_transformer swin convnext "
    "smp_fpn polynomial",
    "batch": "attention_unet densenet fpn highway hrnet parallel_attention transformer_encoder uvit wavenet swin "
    "convnext three_operands smp_linknet",
    "training": "attention_unet conditioned_unet densenet dla highway transformer_encoder uvit wavenet resnet18 "
    "googlenet swin convnext selective_kernel smp_unet",
    "sums: operator": "resnet18 fpn parallel_attention transformer_encoder conditioned_unet smp_linknet",
    "sums: in place": "three_operands highway squeeze_excitation uvit wavenet unet_sum dual_path",
    "sums: alpha": "resnet highway hrnet vision_transformer dla smp_fpn",
    "sums: addcmul": "resnet conditioned_unet parallel_attention uvit unet_sum swin collected",
    "sums: addcdiv": "three_operands csp fpn transformer_encoder dla highway",
    "sums: lerp": "resnet wavenet hrnet parallel_attention dual_path squeeze_excitation",
    "sums: stacked": "resnet csp fpn conditioned_unet unet_sum wavenet",
    "sums: autograd function": "resnet18 polynomial transformer_encoder wavenet dla highway",
    "sums: leaf module": "three_operands csp fpn uvit hrnet",
    "sums: sum of a list": "resnet18 collected dual_path uvit wavenet smp_linknet",
}

CASES = [(transformation, name) for transformation, names in TABLE.items() for name in names.split()]


@pytest.mark.parametrize(
    ("transformation", "name"),
    CASES,
)
def test_counts_stay(transformation: str, name: str) -> None:
    counts, places = TRANSFORMATIONS[transformation](SPECIMENS[name])
    assert places > 0, "nothing was changed"
    assert counts == plain(name)


def test_table_is_wide_enough() -> None:
    transformations = Counter(transformation for transformation, _ in CASES)
    models = Counter(name for _, name in CASES)
    assert set(transformations) == set(TRANSFORMATIONS)
    assert min(transformations.values()) >= 5
    assert len([name for name, times in models.items() if times >= 4]) >= 20
    assert max(Counter(CASES).values()) == 1


def test_specimens_cover_every_word() -> None:
    words = [asdict(plain(name)) for name in SPECIMENS]
    assert all(any(counts[word] for counts in words) for word in asdict(Counts()))
    assert plain("inception") == plain("googlenet") == Counts()  # controls


# -- one skip taken out ------------------------------------------------------------------------------------------------


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
        operators = graph.nodes[merge.node]["operators"]
        functions = CONCATS if merge.kind == "concat" else SUMS
        if not merge.skips or not operators or len(merge.nodes) > 1:
            continue
        call = program.operators[operators[0]].call
        if call.function in functions:
            number = [other.index for other in program.calls if other.function in functions].index(call.index)
            under = Under(Without(functions, number, {skip.operand for skip in merge.skips}), model)
            results.append((merge, detected(under, inputs).counts))
            assert under.mode.places == 1
    return results


# Models in which no skip is a part of another one's definition. (A long skip at one resolution lasts only as long as
# it bypasses two others, and what feeds a shortcut alone dies with it.)
@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("attention_unet", 3),
        ("conditioned_unet", 12),
        ("csp", 7),
        ("hrnet", 8),
        ("resnet", 8),
        ("transformer_encoder", 8),
        ("unet_sum", 4),
        ("vision_transformer", 6),
        ("swin", 8),
        ("selective_kernel", 8),
        ("smp_unet", 12),
    ],
)
def test_one_skip_taken_out_is_one_fewer(name: str, number: int) -> None:
    results = removals(name)
    assert len(results) == number == plain(name).skips
    for merge, counts in results:
        assert counts == without(plain(name), merge), merge.id


def test_concat_taken_out_of_a_dense_block_is_one_fewer() -> None:
    """The edges of later concats go with it: they hold what it held."""
    before = plain("densenet")
    results = removals("densenet")
    assert len(results) == before.concat == 11
    for merge, counts in results:
        assert counts.edges <= before.edges - sum(skip.edges for skip in merge.skips)
        assert {**asdict(counts), "edges": 0} == {**asdict(without(before, merge)), "edges": 0}, merge.id


def test_long_skip_at_one_resolution_becomes_short_when_it_bypasses_one_skip_alone() -> None:
    before = plain("uvit")
    for merge, counts in removals("uvit"):
        becomes_short = merge.id.startswith("middle.")  # one of the two sums between the ends of the inner concat
        assert counts.skips == before.skips - 1
        assert counts.long == before.long - (becomes_short or merge.span == "long")
