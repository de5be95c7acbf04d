"""A rewrite as data, as Markdown, and as text for a terminal: what was done where, and what it changed."""

from __future__ import annotations

import io
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from skipgraph.graph import SkipGraph
from skipgraph.plan import Plan
from skipgraph.report import units
from skipgraph.rewriting import Rewritten

SCHEMA = "skipgraph.rewrite/1"
_ROWS = (
    ("flops", "multiply-adds", units.flops),
    ("parameters", "parameters", units.count),
    ("peak_bytes", "peak of activations", units.size),
    ("bytes_moved", "bytes moved", units.size),
    ("merges", "merges", str),
    ("concat", "concat skips", str),
    ("add", "additive skips", str),
)
_COLUMNS = {"before": "as it runs", "control": "same, freed early", "after": "rewritten"}
_WHOLE_TENSORS = (
    "Optimisers that work element by element (SGD, Adam) go on with their state, carried over by the state map. Those "
    "that look at whole tensors (LAMB, Adafactor, Muon, clipping by tensor) see other tensors now."
)


def changes(result: Rewritten, emitted: SkipGraph | None = None, *, weights: str = "random") -> dict[str, Any]:
    """What a rewrite did, as plain data.

    Parameters
    ----------
    result : Rewritten
    emitted : SkipGraph, optional
        The graph of the source that is emitted, priced; without it the figures are those of ``result.model``.
    weights : str
        ``"random"``, ``"pretrained"`` or ``"file"``.

    Returns
    -------
    dict
        ``before`` is the user's model as it runs, ``control`` the same with each tensor freed at its last use, so that
        freeing early is not credited to the rewrite; bytes, and multiply-adds.
    """
    plan = result.plan
    told = []
    if weights == "random":
        told.append("The weights are randomly initialised: give --weights or --pretrained for a model of use.")
    if plan.state_map.pieces and not result.original.is_source:
        told.append(_WHOLE_TENSORS)
    if plan.options["inference"]:
        told.append("For inference: batch norms are folded into the weights, and the model cannot train.")
    verification = result.verification
    told += result.compressed.notes if result.compressed is not None else []
    told += [f"Not compared: {reason}" for reason in verification.skipped] if verification is not None else []
    return {
        "schema": SCHEMA,
        "spec": plan.spec,
        "weights": weights,
        "rewrite": plan.rewrite,
        "options": plan.options,
        "before": figures(result.as_it_runs),
        "control": figures(result.before),
        "after": figures(emitted if emitted is not None else result.after),
        "merges": [asdict(outcome) for outcome in plan.outcomes],
        "verification": None if verification is None else _timeless(verification.as_json()),
        "summary": "not verified" if verification is None else verification.summary,
        "factors": _factors(result),
        "notes": told,
    }


def _factors(result: Rewritten) -> dict[str, Any] | None:
    """What was factored, and with what error; None for an exact rewrite."""
    compressed = result.compressed
    if compressed is None:
        return None
    return {
        "method": compressed.method,
        "predicted_error": compressed.predicted,
        "measured_error": compressed.measured,
        "gap": compressed.gap,
        "layers": [asdict(one) for one in compressed.layers],
        "left": compressed.left,
    }


def _timeless(verification: dict[str, Any]) -> dict[str, Any]:
    """What was compared, without the time that it took: the same rewrite gives the same report."""
    return {name: value for name, value in verification.items() if name != "seconds"}


def headline(plan: Plan) -> str:
    """The first line of an emitted file."""
    return f"{plan.spec or 'A model'}, rewritten by skipgraph: {_TITLES[plan.rewrite]}."


def notes(plan: Plan) -> list[str]:
    """What was changed where, for the docstring of an emitted file."""
    done = [outcome for outcome in plan.outcomes if outcome.status == "rewritten"]
    lines = [f"{one.path}: rank {one.rank}, relative error {one.predicted:.2g} predicted." for one in plan.factors]
    lines += [f"{outcome.id}: {outcome.reason}." for outcome in done]
    if plan.options["inference"]:
        lines.append("Batch norms are folded into the weights: the model is for inference alone.")
    return lines


def figures(graph: SkipGraph) -> dict[str, Any]:
    """The totals that a rewrite changes."""
    counts = graph.counts
    return {
        "flops": graph.cost.flops,
        "parameters": graph.cost.parameters,
        "peak_bytes": graph.cost.peak_bytes,
        "peak_node": graph.cost.peak_node,
        "bytes_moved": bytes_moved(graph),
        "merges": len(graph.merges),
        **{name: getattr(counts, name) for name in ("skips", "add", "concat", "gated", "short", "long")},
    }


def bytes_moved(graph: SkipGraph) -> int:
    """Bytes of activations that operators read and write, views apart."""
    total = 0
    for node, attributes in graph.nodes(data=True):
        if attributes["op"] != "input" and not attributes.get("is_view"):
            read = sum(graph.nodes[operand]["bytes_out"] for operand, _, _ in graph.in_edges(node, keys=True))
            total += attributes["bytes_out"] + read
    return total


def markdown(data: dict[str, Any]) -> str:
    """The text of ``report.md``."""
    lines = [f"# {data['spec'] or 'The model'}, {_title(data)}", "", data["summary"] + ".", ""]
    lines += ["| | " + " | ".join(_COLUMNS.values()) + " | rewritten / as it runs |", "|---|---|---|---|---|"]
    lines += ["| " + " | ".join(row) + " |" for row in _rows(data)]
    if data["factors"]:
        lines += ["", *_factor_lines(data["factors"])]
    for status, title in _STATUSES.items():
        found = [one for one in data["merges"] if one["status"] == status]
        if found:
            lines += ["", f"## {title} ({len(found)})", ""]
            lines += [f"- `{one['id']}`: {one['reason']}{_delta(one, status)}." for one in found]
    if data["notes"]:
        lines += ["", "## Notes", "", *[f"- {note}" for note in data["notes"]]]
    return "\n".join(lines) + "\n"


def terminal(data: dict[str, Any], *, color: bool = False, width: int | None = None) -> str:
    """The same for a terminal."""
    console = Console(
        file=io.StringIO(), width=max(60, width or 100), force_terminal=color, no_color=not color, highlight=False,
        color_system="standard" if color else None, legacy_windows=False,
    )  # fmt: skip
    console.print(f"{data['spec'] or 'The model'}, {_title(data)}", style="bold", markup=False)
    console.print(data["summary"] + "\n", markup=False)
    table = Table(box=None, pad_edge=False)
    for name in ("", *_COLUMNS.values(), "ratio"):
        table.add_column(name, justify="left" if not name else "right")
    for row in _rows(data):
        table.add_row(*row)
    console.print(table)
    if data["factors"]:
        _print_factors(console, data["factors"])
    for status, title in _STATUSES.items():
        found = [one for one in data["merges"] if one["status"] == status]
        if found:
            console.print(f"\n{title} ({len(found)})", style="bold")
            for one in found:
                console.print(f" • {one['id']}: {one['reason']}{_delta(one, status)}", markup=False)
    for note in data["notes"]:
        console.print(f"\n{note}", style="dim", markup=False)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


_METHODS = {
    "svd": "by their weights alone",
    "moments": "by the moments of what they read",
    "compensated": "in turn, by what the rewritten model gives each",
}


def _headings(factors: dict[str, Any]) -> tuple[str, str]:
    """What was factored, and the error of the outputs."""
    title = f"Factored ({len(factors['layers'])}), {_METHODS[factors['method']]}"
    measured = factors["measured_error"]
    errors = f"relative error of the outputs: {factors['predicted_error']:.2g} predicted"
    return title, errors + (f", {measured:.2g} measured on the calibration data" if measured is not None else "")


def _factor_rows(factors: dict[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            one["path"], one["merge"] or "", f"{one['rank']} ({one['form']})", f"{one['predicted']:.2g}",
            "" if one["measured"] is None else f"{one['measured']:.2g}",
            f"−{units.flops(-one['flops'])}" if one["flops"] < 0 else units.flops(one["flops"]),
        )
        for one in factors["layers"]
    ]  # fmt: skip


_FACTOR_COLUMNS = ("layer", "reads", "rank", "predicted error", "measured", "multiply-adds")


def _factor_lines(factors: dict[str, Any]) -> list[str]:
    title, errors = _headings(factors)
    lines = [f"## {title}", "", f"{errors[0].upper()}{errors[1:]}.", "", f"| {' | '.join(_FACTOR_COLUMNS)} |"]
    lines += ["|---" * len(_FACTOR_COLUMNS) + "|", *[f"| {' | '.join(row)} |" for row in _factor_rows(factors)]]
    return lines + [f"- {reason}." for reason in dict.fromkeys(factors["left"].values())]


def _print_factors(console: Console, factors: dict[str, Any]) -> None:
    title, errors = _headings(factors)
    console.print(f"\n{title}", style="bold")
    console.print(f"{errors}\n", markup=False)
    table = Table(box=None, pad_edge=False)
    for name in _FACTOR_COLUMNS:
        table.add_column(name, justify="left" if name in ("layer", "reads") else "right")
    for row in _factor_rows(factors):
        table.add_row(*row)
    console.print(table)
    for reason in dict.fromkeys(factors["left"].values()):
        console.print(f" • {reason}", markup=False)


_STATUSES = {
    "rewritten": "Rewritten",
    "kept": "Could be rewritten, and is not",
    "refused": "Refused",
    "excluded": "Left out",
}


_TITLES = {"concat_to_sum": "concats to projected sums", "sum_to_concat": "sums to concats"}


def _title(data: dict[str, Any]) -> str:
    arrow = _TITLES[data["rewrite"]]
    return f"{arrow} (execution {data['options']['execution']})" if data["rewrite"] == "concat_to_sum" else arrow


def _rows(data: dict[str, Any]) -> list[tuple[str, ...]]:
    rows = []
    for key, name, shown in _ROWS:
        values = [data[column][key] for column in _COLUMNS]
        ratio = f"{values[2] / values[0]:.3f}" if values[0] and shown is not str else ""
        rows.append((name, *(shown(value) for value in values), ratio))
    return rows


def _delta(one: dict[str, Any], status: str) -> str:
    """What the rewrite of one merge alone would change, where it is done or could be."""
    if status not in ("rewritten", "kept"):
        return ""
    delta = one["delta"]
    parts = [
        f"{'+' if delta[key] > 0 else '−'}{shown(abs(delta[key]))} {name}"
        for key, name, shown in (
            ("flops", "", units.flops), ("peak_bytes", "of the peak", units.size),
            ("bytes_moved", "moved", units.size),
        )
        if delta[key]
    ]  # fmt: skip
    return f" ({', '.join(part.strip() for part in parts)} by itself)" if parts else ""
