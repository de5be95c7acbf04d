"""The tables and the plot of ``compression.py``, from its results.

    python benchmarks/compression_table.py [--write]

Prints the tables in Markdown; with ``--write`` they go into ``docs/compression.md``, between its marks, and the plot to
``docs/pictures/compression.svg``. Needs the extra ``benchmarks``.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from scipy.stats import t as student

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "compression.json"
PAGE, PLOT = ROOT / "docs" / "compression.md", ROOT / "docs" / "pictures" / "compression.svg"
STAGES = ("as it comes", "norms anew", "fine-tuned")
UNITS = {"denoiser": "dB", "denoiser without norms": "dB", "digits": "%"}
OURS, BLIND, PRUNING = ("a", "b", "c", "a+", "b+", "c+"), "blind", "Torch-Pruning"
CONFIDENCE = 0.95

Rows = Sequence[dict[str, Any]]


def values(rows: Rows, task: str, method: str, share: float, stage: str) -> dict[int, float]:
    """Quality by seed."""
    found = [row for row in rows if (row["task"], row["method"], row["share"]) == (task, method, share)]
    return {row["seed"]: row[stage] for row in found if stage in row}


def shares(rows: Rows, task: str) -> dict[float, int]:
    """Shares of the multiply-adds that were measured for several seeds, the largest first, and for how many."""
    seeds: dict[float, set[int]] = {}
    for row in rows:
        if row["task"] == task and row["share"] < 1:
            seeds.setdefault(row["share"], set()).add(row["seed"])
    return {share: len(found) for share, found in sorted(seeds.items(), reverse=True) if len(found) > 1}


def methods(rows: Rows) -> list[str]:
    """All methods, in the order in which they were measured."""
    return [name for name in dict.fromkeys(row["method"] for row in rows) if name != "original"]


def quality_table(rows: Rows, task: str) -> Iterator[str]:
    """The mean over the seeds of each method, share and stage."""
    original = [row["as it comes"] for row in rows if row["task"] == task and row["method"] == "original"]
    whole = f"the original {statistics.mean(original):.2f}"
    yield f"**{task.capitalize()}** ({UNITS[task]}; {whole}):"
    yield ""
    columns = shares(rows, task)
    yield "| | " + " | ".join(f"{share:.0%}, {seeds} seeds" for share, seeds in columns.items()) + " |"
    yield "|---" * (len(columns) + 1) + "|"
    for method in methods(rows):
        cells = []
        for share in columns:
            found = [values(rows, task, method, share, stage) for stage in STAGES]
            told = " / ".join(f"{statistics.mean(one.values()):.2f}" for one in found if one)
            cells.append(told or "n/a")
        yield f"| {method} | " + " | ".join(cells) + " |"
    yield ""


def interval(differences: Sequence[float]) -> str:
    """A mean, and Student's interval of it."""
    mean = statistics.mean(differences)
    if len(differences) < 2:
        return f"{mean:+.2f}"
    quantile = student.ppf((1 + CONFIDENCE) / 2, len(differences) - 1)
    half = quantile * statistics.stdev(differences) / len(differences) ** 0.5
    return f"{mean:+.2f} ± {half:.2f}"


def best(rows: Rows, task: str, names: Sequence[str], share: float, stage: str) -> dict[int, float]:
    """The best of some methods, for each seed."""
    found: dict[int, float] = {}
    for name in names:
        for seed, value in values(rows, task, name, share, stage).items():
            found[seed] = max(found.get(seed, value), value)
    return found


def difference_table(rows: Rows, task: str) -> Iterator[str]:
    """c and c+ against the best setting of Torch-Pruning and against the blind factorisation, seed by seed."""
    pruning = [name for name in methods(rows) if name.startswith(PRUNING)]
    columns = shares(rows, task)
    yield f"| {task} | " + " | ".join(f"{share:.0%}, {seeds} seeds" for share, seeds in columns.items()) + " |"
    yield "|---" * (len(columns) + 1) + "|"
    for ours in ("c", "c+"):
        for title, names in ((PRUNING, pruning), (BLIND, [BLIND])):
            for stage in STAGES:
                cells = []
                for share in columns:
                    mine, theirs = values(rows, task, ours, share, stage), best(rows, task, names, share, stage)
                    more = [mine[seed] - theirs[seed] for seed in sorted(mine.keys() & theirs.keys())]
                    behind = more and statistics.mean(more) < 0
                    cells.append("n/a" if not more else f"{'**behind** ' if behind else ''}{interval(more)}")
                yield f"| {ours} - {title}, {stage} | " + " | ".join(cells) + " |"
    yield ""


def tables(rows: Rows) -> str:
    """Everything, in Markdown."""
    lines: list[str] = []
    for task in dict.fromkeys(row["task"] for row in rows):
        lines += [*quality_table(rows, task), *difference_table(rows, task)]
    return "\n".join(lines).rstrip()


def plot(rows: Rows) -> None:
    """Quality against multiply-adds, as it comes and fine-tuned."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "skipgraph", "font.size": 8, "svg.fonttype": "none"})
    import matplotlib.pyplot as plt

    tasks = [task for task in dict.fromkeys(row["task"] for row in rows) if len(shares(rows, task)) > 1]
    figure, panels = plt.subplots(len(tasks), 2, figsize=(8, 3 * len(tasks)), squeeze=False, sharex=True)
    drawn = ["c", "c+", BLIND, *(name for name in methods(rows) if name.startswith(PRUNING))]
    for line, task in zip(panels, tasks, strict=True):
        original = statistics.mean(
            row["as it comes"] for row in rows if row["task"] == task and row["method"] == "original"
        )
        for panel, stage in zip(line, ("as it comes", "fine-tuned"), strict=True):
            panel.axhline(original, color="0.6", linewidth=0.8, linestyle=":")
            for name in drawn:
                points = [(share, values(rows, task, name, share, stage)) for share in shares(rows, task)]
                known = [(100 * share, statistics.mean(found.values())) for share, found in points if found]
                if known:
                    thick = 2.0 if name in OURS else 1.0
                    panel.plot(*zip(*known, strict=True), marker="o", markersize=3, linewidth=thick, label=name)
            panel.set_title(f"{task}, {stage}")
            panel.set_ylabel(UNITS[task])
            panel.set_xlabel("multiply-adds, %")
    panels[0][0].legend(fontsize=6)
    figure.tight_layout()
    PLOT.parent.mkdir(exist_ok=True)
    figure.savefig(PLOT, metadata={"Date": None})


def main() -> int:
    """Print, or write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="into the documentation")
    options = parser.parse_args()
    rows = json.loads(RESULTS.read_text(encoding="utf-8"))["rows"]
    text = tables(rows)
    print(text)
    if options.write:
        page = PAGE.read_text(encoding="utf-8")
        marks = "<!-- compression: begin -->", "<!-- compression: end -->"
        pattern = re.compile(re.escape(marks[0]) + ".*" + re.escape(marks[1]), re.DOTALL)
        if not pattern.search(page):
            print(f"{PAGE} has no marks", file=sys.stderr)
            return 1
        PAGE.write_text(pattern.sub(lambda match: f"{marks[0]}\n{text}\n{marks[1]}", page), encoding="utf-8")
        plot(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
