"""Rows as CSV, Parquet, JSON, or a table for a terminal."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
from collections.abc import Callable, Sequence
from typing import Any

from skipgraph.errors import MissingDependencyError
from skipgraph.scan.columns import Column, Row, columns

FORMATS = ("csv", "json", "parquet", "table")
SCHEMA = "skipgraph.scan/1"
_WIDTH = 120


def check_format(format: str) -> None:
    """Check, before any work is done, that a format can be written.

    Raises
    ------
    MissingDependencyError
        If what it takes is not installed.
    """
    if format == "parquet" and importlib.util.find_spec("pyarrow") is None:
        raise MissingDependencyError("pyarrow is not installed", 'Install it: pip install "skipgraph[parquet]"')


def render(
    rows: Sequence[Row], format: str, *, timings: bool = False, color: bool = False, width: int | None = None
) -> str | bytes:
    """Rows as one of `FORMATS`; the same rows give the same text or bytes."""
    shown = columns(timings=timings)
    if format == "csv":
        return _csv(rows, shown)
    if format == "json":
        return _json(rows, shown)
    if format == "parquet":
        return _parquet(rows, shown)
    return _table(rows, timings, color, width)


def _csv(rows: Sequence[Row], shown: Sequence[Column]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(column.name for column in shown)
    writer.writerows([row.get(column.name) for column in shown] for row in rows)
    return text.getvalue()


def _json(rows: Sequence[Row], shown: Sequence[Column]) -> str:
    document = {
        "schema": SCHEMA,
        "units": {one.name: one.unit for one in shown if one.unit},
        "rows": [{column.name: row.get(column.name) for column in shown} for row in rows],
    }
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _parquet(rows: Sequence[Row], shown: Sequence[Column]) -> bytes:
    import pyarrow
    from pyarrow import parquet

    types = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64()}
    schema = pyarrow.schema(
        [
            pyarrow.field(one.name, types[one.kind], metadata={"unit": one.unit, "meaning": one.meaning})
            for one in shown
        ],
        metadata={"schema": SCHEMA},
    )
    table = pyarrow.table({one.name: [row.get(one.name) for row in rows] for one in shown}, schema=schema)
    written = io.BytesIO()
    parquet.write_table(table, written)
    return written.getvalue()


def _table(rows: Sequence[Row], timings: bool, color: bool, width: int | None) -> str:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from skipgraph.report import units

    heads: dict[str, Callable[[Any], str]] = {
        "parameters": units.count,
        "flops": units.flops,
        "peak_bytes": units.size,
        **dict.fromkeys(("skips", "add", "concat", "gated", "long", "projected", "skip_edges"), "{:,}".format),
        **({"seconds": "{:.1f}".format} if timings else {}),
    }
    titles = {"flops": "FLOPs", "peak_bytes": "peak", "skip_edges": "edges"}
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("model", overflow="fold")
    for name in heads:
        table.add_column(titles.get(name, name), justify="right", no_wrap=True)
    for row in rows:
        if row["status"] == "priced":
            table.add_row(Text(str(row["spec"])), *(form(row[name]) for name, form in heads.items()))
    console = Console(
        file=io.StringIO(), width=max(60, width or _WIDTH), force_terminal=color, no_color=not color, highlight=False,
        color_system="standard" if color else None, legacy_windows=False,
    )  # fmt: skip
    if table.row_count:
        console.print(table)
    for row in rows:
        if row["status"] == "failed":
            console.print(Text.assemble((str(row["spec"]), "bold red"), f" {row['reason']}"))
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"
