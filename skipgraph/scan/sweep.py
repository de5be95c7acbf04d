"""Many models to many rows, by whatever runs calls."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Executor, ThreadPoolExecutor, as_completed
from contextlib import contextmanager

from skipgraph.errors import SkipgraphError, UsageError
from skipgraph.scan.columns import Row
from skipgraph.scan.journal import Journal
from skipgraph.scan.pricing import Job, end, failed, priced

Tell = Callable[[int, int, int], None]  # models that are done, all, those that have failed


def sweep(executor: Executor, jobs: Sequence[Job], journal: Journal, tell: Tell | None = None) -> list[Row]:
    """Price every model, and keep each row in the journal as soon as it is known.

    Parameters
    ----------
    executor : concurrent.futures.Executor
        What runs `skipgraph.scan.pricing.priced`: threads of this process (`local`), or a cluster
        (`skipgraph.scan.cluster.connected`).
    jobs : sequence of Job
        Their SPECs differ.
    journal : Journal
        Rows that it knows are not made again.
    tell : callable, optional
        Is told how many models are done, how many there are, and how many have failed so far: at the start, and with
        each row.

    Returns
    -------
    list of dict
        One row for each job, in their order.

    Raises
    ------
    UsageError
        If whoever runs the calls is gone.
    """
    rows = {job.spec: row for job in jobs if (row := journal.row(job)) is not None}
    futures = {executor.submit(priced, job): job for job in jobs if job.spec not in rows}
    failures = sum(row["status"] == "failed" for row in rows.values())
    if tell is not None:
        tell(len(rows), len(jobs), failures)
    for future in as_completed([*futures]):
        job = futures.pop(future)  # what is not kept here, a cluster need not keep either
        try:
            row = future.result()
        except CancelledError:
            raise UsageError(
                "the connection to the cluster was lost", "Start the scan again, with --resume if it wrote a file."
            ) from None
        except Exception as error:  # the model's own were told by a row
            row = failed(job.spec, error.message if isinstance(error, SkipgraphError) else f"was lost: {error}")
        else:
            journal.add(job, row)
        rows[job.spec] = row
        failures += row["status"] == "failed"
        if tell is not None:
            tell(len(rows), len(jobs), failures)
    return [rows[job.spec] for job in jobs]


@contextmanager
def local(scan: str, workers: int | None = None) -> Iterator[Executor]:
    """Threads of this process, each of which waits for one process at a time; all of them end with the block."""
    pool = ThreadPoolExecutor(workers or usable_cores())
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        end(scan)
        pool.shutdown()


def usable_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
