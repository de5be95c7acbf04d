"""The same rows in every format, and what the documentation says of them."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import re
from pathlib import Path

import pytest

from skipgraph.errors import MissingDependencyError
from skipgraph.scan import COLUMNS, Row, check_format, render
from skipgraph.scan.columns import SECONDS, columns
from skipgraph.scan.pricing import failed

PAGE = Path(__file__).parents[2] / "docs" / "scan.md"


def priced(spec: str) -> Row:
    words = {"spec": spec, "status": "priced", "method": "meta", "inputs": "x=1x3x8x8:float32"}
    row: Row = {column.name: number for number, column in enumerate(COLUMNS)}
    return row | words | {"reason": None, "unpriced_operators": "add:1", "saved_bytes": None, "seconds": 1.25}


ROWS = [priced("timm:a"), failed("b.py:Net(a=1, b='ä')", "raised\nValueError: 3 × 4") | {"seconds": 0.5}]


def test_csv() -> None:
    text = render(ROWS, "csv")
    assert isinstance(text, str)
    assert "\r" not in text
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [*rows[0]] == [column.name for column in COLUMNS]
    for read, row in zip(rows, ROWS, strict=True):
        assert read == {name: "" if row[name] is None else str(row[name]) for name in read}


def test_json() -> None:
    document = json.loads(render(ROWS, "json"))
    assert document["schema"] == "skipgraph.scan/1"
    assert document["units"]["flops"] == "multiply-adds"
    assert document["rows"] == [{column.name: row[column.name] for column in COLUMNS} for row in ROWS]


def test_parquet() -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    written = render(ROWS, "parquet")
    assert isinstance(written, bytes)
    assert render(ROWS, "parquet") == written
    table = parquet.read_table(io.BytesIO(written))
    assert table.to_pylist() == [{column.name: row[column.name] for column in COLUMNS} for row in ROWS]
    assert table.schema.field("flops").metadata[b"unit"] == b"multiply-adds"
    nobody = parquet.read_table(io.BytesIO(render([failed("a", "no")], "parquet")))  # not a number in it
    assert nobody.schema == table.schema


@pytest.mark.parametrize("format", ["csv", "json", "parquet"])
def test_timings_are_a_column_more(format: str) -> None:
    if format == "parquet":
        pytest.importorskip("pyarrow")
    for timings in (False, True):
        content = render(ROWS, format, timings=timings)
        assert (SECONDS.name.encode() in (content if isinstance(content, bytes) else content.encode())) == timings


def test_terminal() -> None:
    text = render(ROWS, "table", timings=True)
    assert isinstance(text, str)
    assert "timm:a" in text
    assert "seconds" in text
    assert text.rstrip().endswith("b.py:Net(a=1, b='ä') raised ValueError: 3 × 4")
    assert "\x1b" not in text
    assert "\x1b" in str(render(ROWS, "table", color=True))
    narrow = render([priced(f"timm:{'long' * 30}")], "table", width=80)
    assert max(map(len, str(narrow).splitlines())) <= 80
    assert "model" not in str(render(ROWS[1:], "table"))


def test_without_pyarrow(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pyarrow" else find(name))
    check_format("csv")
    with pytest.raises(MissingDependencyError, match="pyarrow is not installed") as caught:
        check_format("parquet")
    assert "skipgraph[parquet]" in caught.value.remedy


def test_every_column_is_documented(request: pytest.FixtureRequest) -> None:
    lines = [
        f"| `{one.name}` | {one.kind.__name__} | {one.unit} | {one.meaning} |".replace("|  |", "| |")
        for one in columns(timings=True)
    ]
    head = "| column | type | unit | |\n|---|---|---|---|\n"
    text = PAGE.read_text(encoding="utf-8")
    written = re.search(re.escape(head) + r"((?:\|.*\n)+)", text)
    assert written is not None
    if request.config.getoption("--update"):
        PAGE.write_text(text.replace(written[1], "\n".join(lines) + "\n"), encoding="utf-8")
        return
    assert written[1].splitlines() == lines
