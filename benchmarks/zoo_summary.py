"""The journal of `benchmarks/zoo.py` as a table for people (Markdown) and one for programs (CSV)."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

Records = dict[tuple[str, str, str], dict[str, Any]]
Models = dict[tuple[str, str], dict[str, dict[str, Any]]]  # (library, model) -> stage -> record

WHOLE = ("meta", "fake")
SAME = ("same", "close")
FIELDS = {
    "capture": "status reason seconds meta_seconds nodes skips add concat long flops".split(),
    "rerun": "status way ends reason seconds difference".split(),
    "fx": ["status"],
    "export": ["status", "seconds"],
    "rewrite": "status reason seconds rewritten refused error reasons".split(),
}


def write_tables(records: Records, versions: dict[str, str], folder: Path) -> None:
    """Write zoo.csv and zoo.md into ``folder``."""
    models: Models = {}
    for (library, model, stage), record in sorted(records.items()):
        models.setdefault((library, model), {})[stage] = record
    with (folder / "zoo.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        columns = [(stage, field) for stage, fields in FIELDS.items() for field in fields]
        writer.writerow(["library", "model", *(f"{stage} {field}" for stage, field in columns)])
        for (library, model), stages in models.items():
            cells = [stages.get(stage, {}).get(field) for stage, field in columns]
            writer.writerow([library, model, *map(text, cells)])
    (folder / "zoo.md").write_text("\n".join(summary(models, versions)) + "\n")


def text(cell: Any) -> Any:
    """A cell of the table: nothing for what is not known, and counts in words."""
    if isinstance(cell, dict):
        return "; ".join(f"{count} × {name}" for name, count in cell.items())
    return "" if cell is None else cell


def summary(models: Models, versions: dict[str, str]) -> Iterator[str]:
    """The lines of zoo.md."""
    yield "# The zoo"
    yield ""
    yield "Made by `benchmarks/zoo.py`; every model has its line in zoo.csv. What the columns mean: docs/zoo.md."
    yield from ["", "## Capture", ""]
    yield from table(coverage(models, versions))
    yield from ["", "## Exact rewrites of concats into sums", ""]
    yield from table(rewrites(models, versions))
    yield from ["", "## Why sites are refused", ""]
    reasons: Counter[str] = Counter()
    for stages in models.values():
        reasons.update(stages.get("rewrite", {}).get("reasons", {}))
    yield from table([["sites", "reason"], *([str(count), reason] for reason, count in reasons.most_common(25))])
    yield from ["", "## What went another way", ""]
    yield from table([["model", "stage", "", "reason"], *sorted(exceptions(models))])


def table(rows: list[list[str]]) -> Iterator[str]:
    """A table in Markdown; the first row is its head."""
    yield "| " + " | ".join(rows[0]) + " |"
    yield "|" + " --- |" * len(rows[0])
    for row in rows[1:]:
        yield "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |"


def counted(records: Iterable[dict[str, Any]], good: Callable[[dict[str, Any]], bool]) -> str:
    """How many of the records are good, of how many."""
    found = list(records)
    return f"{sum(map(good, found))}/{len(found)}" if found else ""


def by_library(models: Models, versions: dict[str, str]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A line's label, and the stages of its models: each library, and all."""
    for library, version in versions.items():
        yield f"{library} {version}", [stages for (its, _), stages in models.items() if its == library]
    yield "all", list(models.values())


def coverage(models: Models, versions: dict[str, str]) -> list[list[str]]:
    """How many models could be captured, and by what."""
    rows = [
        "library|models|captured|with opaque leaves|symbolic_trace|torch.export|same output again|"
        "nodes|skips|seconds|of a meta forward".split("|")
    ]
    for label, group in by_library(models, versions):
        built = [
            one for one in group if one.get("capture", {}).get("status") not in (None, "not built", "does not run")
        ]
        captured = [one["capture"] for one in built]
        stage = {
            name: [one[name] for one in built if one.get(name, {}).get("status") not in (None, "does not run")]
            for name in FIELDS
        }
        done = [one for one in captured if "nodes" in one]
        timed = [one for one in done if one["meta_seconds"]]
        ratio = sum(one["seconds"] for one in timed) / max(1e-9, sum(one["meta_seconds"] for one in timed))
        rows.append(
            [
                label,
                str(len(captured)),
                counted(captured, lambda one: one["status"] in (*WHOLE, "opaque", "export")),
                str(sum(one["status"] == "opaque" for one in captured)),
                counted(stage["fx"], lambda one: one["status"] in SAME),
                counted(stage["export"], lambda one: one["status"] in SAME),
                counted(stage["rerun"], lambda one: one["status"] in SAME),
                str(sum(one["nodes"] for one in done)),
                str(sum(one["skips"] for one in done)),
                f"{sum(one['seconds'] for one in done):.0f}",
                f"{ratio:.1f}" if timed else "",
            ]
        )
    return rows


def rewrites(models: Models, versions: dict[str, str]) -> list[list[str]]:
    """How many concats were rewritten, and whether that was proved."""
    rows = [
        ["library", "models with concats", "with a rewrite", "sites rewritten", "refused", "verified", "worst error"]
    ]
    for label, group in by_library(models, versions):
        tried = [one["rewrite"] for one in group if "reasons" in one.get("rewrite", {})]
        changed = [one for one in tried if one["rewritten"]]
        worst = max((one["error"] for one in changed if "error" in one), default=0.0)
        rows.append(
            [
                label,
                str(len(tried)),
                str(len(changed)),
                str(sum(one["rewritten"] for one in tried)),
                str(sum(one["refused"] for one in tried)),
                counted(changed, lambda one: one["status"] == "verified"),
                f"{worst:.1e}" if worst else "",
            ]
        )
    return rows


def exceptions(models: Models) -> Iterator[list[str]]:
    """Every stage that did not come out as it should; what other tools cannot do is counted above."""
    fine = {"capture": WHOLE, "rerun": ("same",), "rewrite": ("verified", "nothing")}
    for (library, model), stages in models.items():
        for stage, good in fine.items():
            record = stages.get(stage)
            if record is None:
                continue
            if record.get("ends"):
                yield [f"{library}:{model}", stage, record["status"], f"as far as it was captured: {record['ends']}"]
            elif record["status"] not in good:
                reason = record.get("reason") or f"off by {record.get('difference', 0):.1e}"
                yield [f"{library}:{model}", stage, record["status"], reason[:160]]
