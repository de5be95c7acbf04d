"""The inspection as text for a terminal: the model, totals, one row a skip, findings."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from skipgraph.graph import Counts, SkipGraph
from skipgraph.report import units
from skipgraph.report.findings import findings
from skipgraph.report.registry import Options, register
from skipgraph.report.rows import Row, rows

if TYPE_CHECKING:
    from skipgraph.inspection import Inspection

DEFAULT_WIDTH = 100
REWRITES_WIDTH = 30
SHORTCUTS = ("identity", "projected")
HEADS = ("bytes", "held\nsteps", "at\npeak", "layers\npassed", "nested")
KIND_STYLES = {"add": "blue", "concat": "yellow", "gated": "green"}


@register("table")
def write(inspection: Inspection, options: Options) -> str:
    """The inspection as a table, ``options.width`` characters wide."""
    width = max(60, options.width or DEFAULT_WIDTH)
    console = Console(
        file=io.StringIO(), width=width, force_terminal=options.color, no_color=not options.color, highlight=False,
        color_system="standard" if options.color else None, legacy_windows=False,
    )  # fmt: skip
    for part in _parts(inspection, options, width):
        console.print(part)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


def _parts(inspection: Inspection, options: Options, width: int) -> list[RenderableType]:
    graph = inspection.graph
    parts: list[RenderableType] = [_model(inspection), "", _totals(inspection)]
    parts.append(_skips(graph, options, width) if graph.counts.skips else "")
    return [*parts, *_findings(inspection)]


def _model(inspection: Inspection) -> RenderableType:
    """The model in one line."""
    cost = inspection.graph.cost
    named = len(inspection.inputs) > 1
    inputs = ", ".join((f"{i['name']} " if named else "") + units.shape(i["shape"]) for i in inspection.inputs)
    facts = [f"{units.count(cost.parameters)} parameters", inputs or "no input", units.flops(cost.flops)]
    facts.append(f"peak {units.size(cost.peak_bytes)}")
    return Text.assemble((inspection.spec, "bold"), " · ", " · ".join(facts))


def _totals(inspection: Inspection) -> RenderableType:
    graph = inspection.graph
    counts, cost = graph.counts, graph.cost
    kinds = [_numbered(counts, *group) for group in (("add", "concat", "gated"), ("short", "long"), SHORTCUTS)]
    lines = {
        "skips": " · ".join([f"{counts.skips:,}", *filter(None, kinds), units.plural(counts.edges, "edge")]),
        "cost": f"{units.flops(cost.flops)} (1 FLOP = 1 multiply-add), {units.count(cost.parameters)} parameters "
        f"({units.size(cost.parameter_bytes)}), {inspection.weights} weights",
        "memory": f"peak {units.size(cost.peak_bytes)} as it runs, {units.size(cost.peak_bytes_last_use)} if freed at "
        f"last use; all results {units.size(cost.activation_bytes)}",
        "graph": ", ".join(
            [
                "training" if inspection.training else "inference",
                units.plural(graph.number_of_nodes(), "operator"),
                units.plural(graph.number_of_edges(), "edge"),
                units.plural(cost.steps, "step"),
                units.plural(len(graph.merges), "merge"),
            ]
        ),
    }
    if cost.saved_bytes is not None:
        lines["training"] = f"{units.size(cost.saved_bytes)} kept for the backward pass"
    if cost.unpriced_operators:
        lines["not priced"] = ", ".join(f"{name} × {n}" for name, n in sorted(cost.unpriced_operators.items()))
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in lines.items():
        table.add_row(name, text)
    return table


def _numbered(counts: Counts, *names: str) -> str:
    """The counts that are not zero: "16 add, 2 concat"."""
    return ", ".join(f"{number:,} {name}" for name in names if (number := getattr(counts, name)))


def _skips(graph: SkipGraph, options: Options, width: int) -> RenderableType:
    """One row a skip: source and shortcut stand beside merge and kind if there is room, else below them."""
    found = rows(graph, unfold=options.unfold)
    last = [REWRITES_WIDTH] if options.what_if else []
    numbers = _widths(HEADS, [_numbers(row) for row in found])
    beside = _widths(("skip", "source", "kind", "shortcut"), [_words(row) for row in found])
    below = _widths(("", "", "kind\nshortcut"), [("", "", _kind(row)) for row in found])[2]
    wide = _total(beside + numbers + last) <= width
    free = width - _total([0, below, *numbers, *last])

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    if wide:
        for name, characters in zip(("skip", "source", "kind", "shortcut"), beside, strict=True):
            table.add_column(name, width=characters)
    else:
        table.add_column("skip\n← source", width=free)
        table.add_column("kind\nshortcut", width=below)
    for name, characters in zip(HEADS, numbers, strict=True):
        table.add_column(name, justify="right", width=characters)
    if options.what_if:
        table.add_column("rewrites", width=REWRITES_WIDTH)
    for row in found:
        text = _styled(row, _words(row)) if wide else _stacked(row, free)
        table.add_row(*text, *_numbers(row), *([_rewrites(row)] if options.what_if else []))
    return table


def _widths(heads: Sequence[str], cells: Sequence[Sequence[str]]) -> list[int]:
    return [max(_longest(cell) for cell in column) for column in zip(heads, *cells, strict=True)]


def _total(widths: Sequence[int]) -> int:
    """Characters of a line of the table: two blanks after each column but one at its ends."""
    return sum(widths) + 2 * len(widths) + 1


def _longest(text: str) -> int:
    return max(len(line) for line in text.split("\n"))


def _words(row: Row) -> list[str]:
    """The cells of a row that are no numbers, all beside each other."""
    name = row.name if len(row.skips) == 1 else f"{row.name} × {len(row.skips)}"
    kind, shortcut = _kind(row).split("\n")
    return [name, row.source(), kind, shortcut]


def _kind(row: Row) -> str:
    return f"{row.span()} {row.first.kind}\n{row.shortcut()}{' dense' if row.first.dense else ''}"


def _styled(row: Row, cells: list[str]) -> list[RenderableType]:
    long = row.span() == "long"
    styles = ("bold" if long or len(row.skips) > 1 else "", "", f"{'bold ' if long else ''}{_colour(row)}", "")
    return [Text(cell, style) for cell, style in zip(cells, styles, strict=True)]


def _colour(row: Row) -> str:
    return KIND_STYLES[row.first.kind]


def _stacked(row: Row, width: int) -> list[RenderableType]:
    name, source, kind, shortcut = _words(row)
    name, source = _wrap(name, width), _wrap(f"← {source}", width)
    styled = _styled(row, [name, source, kind, shortcut])
    return [Text("\n").join(styled[:2]), Text("\n").join(styled[2:])]  # type: ignore[arg-type]


def _numbers(row: Row) -> list[str]:
    """The cells of a row that are numbers, in the order of `HEADS`."""
    at_peak = row.at_peak()
    return [
        _size_range(row.range("bytes", together=True)),
        _range(row.range("held_steps")),
        "" if not at_peak else "yes" if at_peak == len(row.skips) else f"{at_peak}",
        _range(row.range("bypassed_layers")),
        _range(row.range("nesting")),
    ]


def _wrap(name: str, width: int) -> str:
    """A path broken after a dot or a comma where it does not fit; later lines are indented.

    Examples
    --------
    >>> print(_wrap("features.denseblock1.denselayer2–6.cat × 5", 26))
    features.denseblock1.
      denselayer2–6.cat × 5
    """
    lines = [""]
    for part in re.findall(r"[^., ]*(?: [×t][^., ]*| \d+)*(?:, |[. ]|$)", name):
        if len(lines[-1] + part.rstrip()) > width and lines[-1].strip():
            lines.append("  ")
        lines[-1] += part
    return "\n".join(line.rstrip() for line in lines)


def _range(ends: tuple[int, int]) -> str:
    return f"{ends[0]:,}" if ends[0] == ends[1] else f"{ends[0]:,}–{ends[1]:,}"


def _size_range(ends: tuple[int, int]) -> str:
    low, high = units.size(ends[0]), units.size(ends[1])
    return low if low == high else f"{low}–\n{high}"


def _rewrites(row: Row) -> str:
    """What each rewrite of the first skip of a row would change."""
    lines = []
    for name, outcome in sorted(row.first.rewrites.items()):
        status = outcome.get("status", "n/a")
        if status == "n/a":
            continue
        delta = outcome.get("delta") or {}
        changes = [f"{word} {_signed(delta[key], form)}" for key, word, form in _DELTAS if delta.get(key)]
        said = ", ".join(changes) if changes else outcome.get("reason", "") if status == "blocked" else "no change"
        lines.append(f"{name.replace('_', ' ')}: {status}" + (f"; {said}" if said else ""))
    return "\n".join(lines) or "–"


_DELTAS = (
    ("flops", "FLOPs", units.count),
    ("parameters", "parameters", units.count),
    ("peak_bytes", "peak", units.size),
    ("bytes_moved", "moved", units.size),
)


def _signed(number: int, form: Any) -> str:
    return f"{'+' if number > 0 else '−'}{form(abs(number))}"


def _findings(inspection: Inspection) -> list[RenderableType]:
    parts: list[RenderableType] = [Text("Findings", style="bold")]
    for sentence in findings(inspection):
        grid = Table.grid(padding=(0, 1))
        grid.add_column(no_wrap=True)
        grid.add_column(overflow="fold")
        grid.add_row("•", Text(sentence[:1].upper() + sentence[1:] + "."))
        parts.append(Padding(grid, (0, 0, 0, 1)))
    return parts
