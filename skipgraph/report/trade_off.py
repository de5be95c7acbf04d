"""The trade-off of error against multiply-adds, as data, as a table, and as a plot."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from skipgraph.compress.trade_off import Point
from skipgraph.errors import MissingDependencyError
from skipgraph.report import units

SCHEMA = "skipgraph.plan-trade-off/1"


def as_data(points: Sequence[Point], spec: str, method: str) -> dict[str, Any]:
    """The points as plain data: multiply-adds, parameters, and the predicted relative error of the outputs."""
    return {"schema": SCHEMA, "spec": spec, "method": method, "points": [point.as_json() for point in points]}


def terminal(data: dict[str, Any], *, color: bool = False, width: int | None = None) -> str:
    """A table, one line a point."""
    console = Console(
        file=io.StringIO(), width=max(60, width or 100), force_terminal=color, no_color=not color, highlight=False,
        color_system="standard" if color else None, legacy_windows=False,
    )  # fmt: skip
    table = Table(box=None, pad_edge=False)
    for name in ("multiply-adds", "of all", "parameters", "of all", "layers factored", "predicted error"):
        table.add_column(name, justify="right")
    first = data["points"][0]
    for one in data["points"]:
        table.add_row(
            units.flops(one["flops"]), f"{one['flops'] / first['flops']:.3f}", units.count(one["parameters"]),
            f"{one['parameters'] / first['parameters']:.3f}", str(one["layers"]), f"{one['error']:.2g}",
        )  # fmt: skip
    console.print(table)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


def plot(data: dict[str, Any], kind: str) -> bytes:
    """The same as a picture.

    Parameters
    ----------
    data : dict
        Of `as_data`.
    kind : str
        ``"svg"``, ``"png"`` or ``"pdf"``.

    Raises
    ------
    MissingDependencyError
        If matplotlib is not there.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingDependencyError("a plot needs matplotlib", "pip install 'skipgraph[plot]'") from None
    first = data["points"][0]
    with mpl.rc_context({"svg.hashsalt": "skipgraph"}):
        figure = Figure(figsize=(6.4, 4.0), layout="constrained")
        axes = figure.add_subplot()
        shares = [100 * one["flops"] / first["flops"] for one in data["points"][1:]]
        axes.plot(shares, [one["error"] for one in data["points"][1:]], marker="o", color="#1f6f8b")
        axes.set_yscale("log")
        axes.invert_xaxis()
        axes.set_xlabel("multiply-adds, % of the model as it is")
        axes.set_ylabel("relative error of the outputs, predicted")
        axes.set_title(data["spec"])
        axes.grid(visible=True, which="both", alpha=0.25)
        stream = io.BytesIO()
        metadata = {"Date": None} if kind == "svg" else {}
        figure.savefig(stream, format=kind, metadata=metadata)
    return stream.getvalue()
