"""A comparison of two models as text for a terminal."""

from __future__ import annotations

import io

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from skipgraph.bench.result import Bench, Measured
from skipgraph.bench.statistics import rounded

DEFAULT_WIDTH = 100
_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
_STYLES = {"B is faster": "green", "B is slower": "red"}
_SAME_OUTPUT = 1e-3


def table(bench: Bench, *, color: bool = False, width: int | None = None) -> str:
    """The comparison as a table and a verdict, ``width`` characters wide."""
    console = Console(
        file=io.StringIO(), width=max(60, width or DEFAULT_WIDTH), force_terminal=color, no_color=not color,
        highlight=False, color_system="standard" if color else None, legacy_windows=False,
    )  # fmt: skip
    console.print(Text.assemble(("A", "bold"), f" {bench.a.name}\n", ("B", "bold"), f" {bench.b.name}"))
    console.print(_figures(bench))
    console.print(Text(bench.summary, style=_STYLES.get(bench.verdict, "bold")))
    for line in _remarks(bench):
        console.print(Text(line))
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


def _figures(bench: Bench) -> Table:
    figures = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    figures.add_column("")
    for head in ("A", "B", "B / A"):
        figures.add_column(head, justify="right")
    a, b, ratio = bench.a, bench.b, bench.ratio
    there = [model.parameter_bytes + model.buffer_bytes for model in (a, b)]
    rows = [
        ("time of a run, median", seconds(a.seconds), seconds(b.seconds), rounded(ratio.value)),
        ("quartiles", _quartiles(a), _quartiles(b), f"{rounded(ratio.low)}–{rounded(ratio.high)}"),
        ("timed runs", f"{a.runs:,}", f"{b.runs:,}", ""),
        ("peak of a run", mebibytes(a.peak_bytes), mebibytes(b.peak_bytes), _over(b.peak_bytes, a.peak_bytes)),
        ("parameters and buffers", mebibytes(there[0]), mebibytes(there[1]), _over(there[1], there[0])),
    ]
    for row in rows:
        figures.add_row(*row)
    return figures


def _remarks(bench: Bench) -> list[str]:
    """What was measured where and how; and whether the models compute the same."""
    settings = bench.settings
    threads = f", {settings.threads} thread{'s' * (settings.threads != 1)}" if settings.device == "cpu" else ""
    facts = [
        bench.device + threads,
        f"torch {bench.torch_version}",
        *([settings.dtype] if settings.dtype else []),
        "training" if settings.training else "inference",
        *(["channels-last"] if settings.channels_last else []),
        *(["compiled"] if settings.compile else []),
        *(["CUDA graphs"] if settings.cuda_graphs else []),
        ", ".join(f"{'×'.join(map(str, one['shape'])) or 'scalar'} {one['dtype']}" for one in bench.inputs),
    ]
    lines = [" · ".join(filter(None, facts))]
    if bench.output_difference is not None and bench.output_difference > _SAME_OUTPUT:
        lines.append(f"The outputs differ by up to {bench.output_difference:.2g} of the largest value.")
    return lines


def seconds(number: float) -> str:
    """Three digits in the unit that fits.

    Examples
    --------
    >>> seconds(0.0123456), seconds(1.5e-6), seconds(123.4)
    ('12.3 ms', '1.5 µs', '123 s')
    """
    scale, unit = next((entry for entry in _UNITS if number >= entry[0]), _UNITS[-1])
    shown = number / scale
    return f"{shown:.3g} {unit}" if shown < 999.5 else f"{shown:.0f} {unit}"


def mebibytes(size: int) -> str:
    """Bytes in one unit, so that columns can be compared.

    Examples
    --------
    >>> mebibytes(3_211_264)
    '3.06 MiB'
    """
    return f"{size / 2**20:,.2f} MiB"


def _quartiles(model: Measured) -> str:
    low, high = model.quartiles
    return f"{seconds(low)}–{seconds(high)}"


def _over(b: int, a: int) -> str:
    return rounded(b / a) if a else ""
