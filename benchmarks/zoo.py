"""Capture, detection, cost and exact rewrites over the models of nine libraries.

    python benchmarks/zoo.py [--list benchmarks/zoo/timm.toml …] [--only PATTERN] [--stages capture,rerun,…]
                             [--workers N] [--seconds S] [--gigabytes G] [--journal FILE] [--again STATUS,…]

Every stage of every model (`zoo_stages.py`) runs in a process of its own, with limits of time and memory. What comes of
it is a line in the journal; a run that is started again leaves out what is there. At the end the tables are written:
benchmarks/results/zoo.csv and zoo.md. The libraries are the extra ``zoo`` (and ``models``); lists whose library is not
installed are left out.
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib.util
import json
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from zoo_lists import LISTS, Entry, read
from zoo_stages import STAGES, prepare, run_stage
from zoo_summary import write_tables

from skipgraph.errors import ProcessError
from skipgraph.scan.isolated import Isolated

RESULTS = Path(__file__).parent / "results"
Key = tuple[str, str, str]  # library, model, stage


def main() -> None:
    options = parsed()
    entries = [entry for path in options.list for entry in listed(path)]
    wanted = [one for one in entries if fnmatch.fnmatch(f"{one.library}:{one.name}", options.only)]
    done = journalled(options.journal)
    again = ("", *options.again.split(","))
    pending = []
    for stage in options.stages.split(","):
        worth = [one for one in wanted if worth_it(stage, done.get((one.library, one.name, "capture")))]
        pending += [
            (stage, one)
            for one in worth[:: options.every]
            if done.get((one.library, one.name, stage), {"status": ""})["status"] in again
        ]
    run_all(pending, options)
    listed_now = {(one.library, one.name) for path in LISTS.glob("*.toml") for one in read(path)[1]}
    records = {key: one for key, one in journalled(options.journal).items() if key[:2] in listed_now}
    write_tables(records, versions(), RESULTS)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", type=Path, nargs="+", default=sorted(LISTS.glob("*.toml")))
    parser.add_argument("--only", default="*", help="a pattern over library:model")
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--every", type=int, default=1, help="take every so many-th model of those: a sample")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=300.0, help="the limit for one stage of one model")
    parser.add_argument("--gigabytes", type=float, default=8.0, help="likewise")
    parser.add_argument("--journal", type=Path, default=RESULTS / "zoo.jsonl")
    parser.add_argument("--again", default="none", help="run what came to one of these once more: raised,wrong")
    return parser.parse_args()


def listed(path: Path) -> list[Entry]:
    """The entries of a list whose library is there."""
    return read(path)[1] if importlib.util.find_spec(path.stem) else []


def versions() -> dict[str, str]:
    """The version that each list was written for."""
    return {path.stem: read(path)[0] for path in sorted(LISTS.glob("*.toml"))}


def worth_it(stage: str, captured: dict[str, Any] | None) -> bool:
    """Nothing can be rewritten where no concat is a skip, nor compared where the model does not run."""
    if stage == "capture" or captured is None:
        return True
    if stage == "rewrite":
        return captured["status"] in ("meta", "fake") and captured.get("concat", 0) > 0
    return captured["status"] not in ("not built", "does not run")


def journalled(path: Path) -> dict[Key, dict[str, Any]]:
    """The last record of every stage of every model."""
    lines = path.read_text().splitlines() if path.exists() else []
    records = [json.loads(line) for line in lines]
    return {(one["library"], one["model"], one["stage"]): one for one in records}


def run_all(pending: list[tuple[str, Entry]], options: argparse.Namespace) -> None:
    """Run stages, a worker each, and append their records to the journal as they come."""
    columns = (
        TextColumn("{task.description:40}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with (
        options.journal.open("a") as journal,
        Progress(*columns) as progress,
        Isolated(prepare) as isolated,
        ThreadPoolExecutor(options.workers) as pool,
    ):
        bar = progress.add_task("", total=len(pending))
        futures = {pool.submit(record_of, isolated, *one, options): one for one in pending}
        for future in as_completed(futures):
            stage, entry = futures[future]
            record = {"library": entry.library, "model": entry.name, "stage": stage, **future.result()}
            journal.write(json.dumps(record) + "\n")
            journal.flush()
            progress.update(bar, advance=1, description=f"{stage} {entry.library}:{entry.name}")


def record_of(isolated: Isolated, stage: str, entry: Entry, options: argparse.Namespace) -> dict[str, Any]:
    """The record of one stage of one model, also where its process came to grief."""
    limits = {"seconds": options.seconds, "memory_bytes": int(options.gigabytes * 1e9)}
    try:
        return isolated.call(run_stage, stage, entry, **limits)
    except ProcessError as error:
        return {"status": error.kind, "reason": error.message}


if __name__ == "__main__":
    main()
