"""The table: the right numbers, within its width, in plain text unless colours are asked for."""

from __future__ import annotations

import pytest

from skipgraph import report
from skipgraph.report.findings import findings
from skipgraph.report.rows import join_names, rows
from tests.helpers import fixtures
from tests.report import inspections
from tests.report.sketches import SKETCHES, unet

EVERYTHING = [("sketch", name) for name in SKETCHES] + [("fixture", name) for name in fixtures.names()]


def table(name: str, **options) -> str:
    return report.render(inspections.sketch(name), "table", **options)


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize(("kind", "name"), EVERYTHING)
def test_no_line_is_wider_than_asked_for(kind, name, width):
    text = report.render(getattr(inspections, kind)(name), "table", width=width, what_if=True)
    assert max(map(len, text.splitlines())) <= width


@pytest.mark.parametrize(("kind", "name"), EVERYTHING)
def test_with_room_every_name_is_whole(kind, name):
    inspection = getattr(inspections, kind)(name)
    text = report.render(inspection, "table", width=220, unfold=True)
    for skip in inspection.graph.skips:
        assert any(line.startswith(f" {skip.id} ") and f" {skip.source} " in line for line in text.splitlines())


def test_the_first_line_is_the_model():
    first = table("resnet50", width=80).splitlines()[0]
    assert first == "resnet50 · 25.6 M parameters · 1×3×224×224 · 4.11 GFLOPs · peak 9.19 MiB"


def test_totals_and_the_convention_of_flops():
    text = table("densenet121")
    assert "58 · 58 concat · 58 short · 58 identity · 535 edges" in text
    assert "1 FLOP = 1 multiply-add" in text


def test_a_row_has_what_a_skip_costs():
    lines = table("unet", width=120).splitlines()
    row = next(line for line in lines if line.startswith(" cat3 "))
    assert row.split() == [
        "cat3",
        "encoder.0.relu2",
        "long",
        "concat",
        "identity",
        "16.0",
        "MiB",
        "54",
        "yes",
        "18",
        "0",
    ]


def test_rows_that_are_alike_are_one():
    assert [(row.name, len(row.skips)) for row in rows(inspections.sketch("vit").graph)] == [
        ("encoder.layers.encoder_layer_0–11.add", 12),
        ("encoder.layers.encoder_layer_0–11.add:1", 12),
    ]
    names = [row.name for row in rows(inspections.sketch("resnet50").graph)]
    assert names[:2] == ["layer1.0.add", "layer1.1–2.add"]
    assert len(names) == 8


@pytest.mark.parametrize(("kind", "name"), EVERYTHING)
def test_rows_lose_no_skip(kind, name):
    graph = getattr(inspections, kind)(name).graph
    for unfold in (False, True):
        found = [skip.id for row in rows(graph, unfold=unfold) for group in row.skips for skip in group]
        assert sorted(found) == sorted(skip.id for skip in graph.skips)
    assert sum(len(row.skips) for row in rows(graph)) == graph.counts.skips
    assert all(len(row.skips) == 1 for row in rows(graph, unfold=True))


def test_names_with_a_gap_say_so():
    assert join_names(["blocks.0.add", "blocks.2.add"]) == "blocks.0…2.add"


def test_colours_only_if_asked_for():
    assert "\x1b" not in table("unet")
    assert "\x1b[" in table("unet", color=True)


def test_what_if_shows_what_rewrites_change():
    inspection = inspections.sketch("unet")
    graph = unet(levels=1)
    delta = {"flops": 1_200_000, "parameters": 0, "peak_bytes": -3 * 2**20, "bytes_moved": 0}
    graph.skips[0].rewrites = {
        "concat_to_sum": {"status": "exact", "reason": "", "delta": delta},
        "sum_to_concat": {"status": "n/a", "reason": "not a sum", "delta": {}},
    }
    text = report.render(type(inspection)("u", "random", graph, inspection.inputs, "meta"), "table", what_if=True)
    assert "concat to sum: exact; FLOPs" in text
    assert "+1.20 M, peak −3.00 MiB" in text
    assert "sum to concat" not in text


def test_a_model_without_skips_says_so():
    text = report.render(inspections.fixture("vgg"), "table")
    assert "No skip connection" in text
    assert "nested" not in text


class TestFindings:
    def test_the_most_costly_skip_comes_first_with_its_share_of_the_peak(self):
        graph = inspections.sketch("unet").graph
        first = findings(inspections.sketch("unet"))[0]
        share = round(100 * 64 * 256 * 256 * 4 / graph.cost.peak_bytes)
        assert first == (
            f"the long concat cat3 from encoder.0.relu2 (1×64×256×256, 16.0 MiB) is held for 54 of 67 steps and is "
            f"{share} % of the peak"
        )

    def test_parallel_branches_are_told_apart(self):
        said = "\n".join(findings(inspections.fixture("inception")))
        assert "joins parallel branches: no operand bypasses layers of another; no skip" in said

    def test_gates_are_told_apart(self):
        said = "\n".join(findings(inspections.fixture("squeeze_excitation")))
        assert "products with a gate" in said
        assert "carry no signal: no skip" in said

    def test_what_is_not_known_is_said(self):
        known = inspections.sketch("unet")
        graph = unet(levels=1)
        graph.cost.unpriced_operators = {"erfinv": 2}
        graph.cost.own_rules = ("attention",)
        graph.cost.flops_by_operator = {"attention": graph.cost.flops // 2, "convolution": graph.cost.flops // 2}
        inspection = type(known)("u", "random", graph, known.inputs, "export", opaque=[("head.nms", "depends on data")])
        said = "\n".join(findings(inspection))
        assert "no FLOPs are counted for: erfinv × 2" in said
        assert "50 % of the total, are in operators that fvcore does not count (attention)" in said
        assert "head.nms could not be looked into: depends on data" in said

    def test_training_says_what_it_keeps(self):
        known = inspections.sketch("unet")
        graph = unet(levels=1)
        graph.cost.saved_bytes = 10 * 2**20
        inspection = type(known)("u", "random", graph, known.inputs, "meta", training=True)
        assert "training keeps 10.0 MiB for the backward pass" in "\n".join(findings(inspection))
        assert "training, " in report.render(inspection, "table")
