"""The JSON document, held to docs/inspect.schema.json and to the graph that it tells of."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from skipgraph import report
from tests.helpers import fixtures
from tests.report import inspections
from tests.report.sketches import SKETCHES

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "inspect.schema.json").read_text())
EVERYTHING = [("sketch", name) for name in SKETCHES] + [("fixture", name) for name in fixtures.names()]


def document(kind: str, name: str) -> dict:
    return json.loads(report.render(getattr(inspections, kind)(name), "json"))


def test_the_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize(("kind", "name"), EVERYTHING)
def test_it_is_valid(kind, name):
    jsonschema.Draft202012Validator(SCHEMA).validate(document(kind, name))


@pytest.mark.parametrize(
    "change",
    [
        {"schema": "skipgraph.inspect/2"},
        {"nodes": [{"id": "a"}]},
        {"totals": {}},
        {"surprise": 1},
        {"merges": [{"id": "a", "node": "a", "kind": "product"}]},
    ],
)
def test_what_is_not_valid_is_refused(change):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(SCHEMA).validate(document("sketch", "unet") | change)


@pytest.mark.parametrize(("kind", "name"), EVERYTHING)
def test_its_parts_agree(kind, name):
    found = document(kind, name)
    totals, ids = found["totals"], {node["id"] for node in found["nodes"]}
    assert totals["nodes"] == len(found["nodes"])
    assert totals["edges"] == len(found["edges"])
    assert totals["merges"] == len(found["merges"])
    assert totals["flops"] == sum(node["flops"] for node in found["nodes"])
    assert totals["skips"] == totals["short"] + totals["long"] == totals["identity"] + totals["projected"]
    assert totals["skips"] == totals["add"] + totals["concat"] + totals["gated"]
    assert {edge[end] for edge in found["edges"] for end in ("src", "dst")} <= ids
    assert [skip for merge in found["merges"] for skip in merge["skips"]] == [skip["id"] for skip in found["skips"]]
    assert {skip[end] for skip in found["skips"] for end in ("merge", "source")} <= ids


def test_nodes_are_in_the_order_of_execution_whatever_the_graph_says():
    inspection = inspections.sketch("unet")
    graph = inspection.graph
    shuffled = type(graph)()
    shuffled.add_nodes_from(sorted(graph.nodes(data=True), reverse=True))
    shuffled.add_edges_from(sorted(graph.edges(keys=True, data=True), key=str))
    shuffled.merges, shuffled.counts, shuffled.cost = graph.merges, graph.counts, graph.cost
    shuffled.graph.update(graph.graph)
    other = type(inspection)(inspection.spec, "random", shuffled, inspection.inputs, "meta")
    assert report.render(other, "json") == report.render(inspection, "json")


def test_saved_bytes_are_there_in_training_only():
    assert "saved_bytes" not in document("sketch", "vit")["totals"]
