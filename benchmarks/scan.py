"""One table of 200 public models, made in three ways that must not differ by a byte.

    python benchmarks/scan.py [--models 200] [--keep DIR]

- on this machine, two models at a time;
- the same, ended by SIGKILL half way and gone on with by ``--resume``;
- on a Dask cluster of two worker processes on this machine, one of which is ended by SIGKILL on the way.

Three quarters of the models are timm's, one quarter torchvision's, evenly spaced over their lists; two files are among
them that crash and hang. The table is written to benchmarks/results/scan.txt; exits with 1 if one differs.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import distributed
import torch

from skipgraph.bench.settings import device_name
from skipgraph.scan import Scan

RESULTS = Path(__file__).parent / "results" / "scan.txt"
COMMAND = [sys.executable, "-m", "skipgraph_cli.main", "scan"]
BAD = {"crashes.py": "import ctypes\nctypes.string_at(0)\n", "hangs.py": "import time\ntime.sleep(3600)\n"}
LIMITS = ["--time-limit", "120", "--memory-limit", "6GB"]


def spaced(names: list[str], number: int) -> list[str]:
    """So many of the names, evenly spaced."""
    return [names[place * len(names) // number] for place in range(number)]


def specs(number: int, folder: Path) -> list[str]:
    """The models, with the two bad files in the middle."""
    with Scan() as scan:
        timm, torchvision = scan.listed("timm"), scan.listed("torchvision")
    good = spaced(timm, number - number // 4 - len(BAD)) + spaced(torchvision, number // 4)
    for name, text in BAD.items():
        (folder / name).write_text(text)
    middle = len(good) // 2
    return [*good[:middle], *(str(folder / name) for name in BAD), *good[middle:]]


def scanned(target: Path, listing: Path, *options: str, at: int = 0, then: Callable[[int], None] | None = None) -> str:
    """Run a scan, and do something to it when so many rows are known; what it said."""
    command = [*COMMAND, "--from", str(listing), "-o", str(target), *LIMITS, *options]
    journal = target.with_name(f"{target.name}.journal")
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stderr=said)
        while process.poll() is None:
            time.sleep(0.2)
            if then is not None and journal.exists() and journal.read_bytes().count(b"\n") >= at:
                then(process.pid)
                then = None
        said.seek(0)
        return said.read().strip()


def main() -> int:
    """Make the three tables and compare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=200)
    parser.add_argument("--keep", type=Path, help="where to leave the tables")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        listing = folder / "models.txt"
        listing.write_text("\n".join(specs(options.models, folder)) + "\n")
        lines, same = compared(folder, listing, options.models)
        if options.keep is not None:
            shutil.copytree(folder, options.keep, dirs_exist_ok=True)
    text = "\n".join(lines) + "\n"
    print(text)
    if options.models >= 200:
        RESULTS.write_text(text, encoding="utf-8")
    return 0 if same else 1


def compared(folder: Path, listing: Path, models: int) -> tuple[list[str], bool]:
    """The report, and whether all tables are the same."""
    versions = f"torch {torch.__version__}, distributed {distributed.__version__}, Python {platform.python_version()}"
    lines = [f"{device_name(torch.device('cpu'))}, {len(os.sched_getaffinity(0))} cores; {versions}", ""]
    here, resumed, cluster = (folder / f"{name}.csv" for name in ("here", "resumed", "cluster"))

    seconds, said = timed(lambda: scanned(here, listing, "--workers", "2"))
    rows = list(csv.DictReader(here.open(encoding="utf-8")))
    lines += [f"{'two processes':52} {seconds:6.0f} s  {said}"]

    def kill(process: int) -> None:
        os.kill(process, signal.SIGKILL)

    def again() -> str:
        scanned(resumed, listing, "--workers", "2", at=models // 2, then=kill)
        return scanned(resumed, listing, "--workers", "2", "--resume")

    seconds, said = timed(again)
    lines += [f"{'two processes, killed half way, gone on with':52} {seconds:6.0f} s  {said}"]

    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1"
    ) as workers:

        def kill_a_worker(_: int) -> None:
            kill(next(iter(workers.workers.values())).process.pid)

        address = workers.scheduler_address
        seconds, said = timed(
            lambda: scanned(cluster, listing, "--scheduler", address, at=models // 3, then=kill_a_worker)
        )
    lines += [f"{'a Dask cluster of two workers, one of them killed':52} {seconds:6.0f} s  {said}", ""]

    same = [table.read_bytes() == here.read_bytes() for table in (resumed, cluster)]
    lines += [f"the tables of {len(rows)} rows are {'the same, byte for byte' if all(same) else 'NOT the same'}", ""]
    lines += [f"{row['spec'].rpartition('/')[2]:40} {row['reason'][:120]}" for row in rows if row["status"] == "failed"]
    methods = Counter(row["method"] for row in rows if row["status"] == "priced")
    lines += ["", "priced on " + ", ".join(f"{method}: {number}" for method, number in sorted(methods.items()))]
    lines += [f"skips in all: {sum(int(row['skips']) for row in rows if row['status'] == 'priced'):,}"]
    return lines, all(same) and len(rows) == models


def timed(work: Callable[[], str]) -> tuple[float, str]:
    """Seconds, and what came of it."""
    began = time.perf_counter()
    found = work()
    return time.perf_counter() - began, found


if __name__ == "__main__":
    sys.exit(main())
