"""From a SPEC to a row, in a process of its own.

Nothing here imports PyTorch before it is called in such a process: who only waits for rows has no need of it.
"""

from __future__ import annotations

import functools
import os
import random
import re
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from skipgraph.errors import ProcessError, SkipgraphError
from skipgraph.scan.columns import COLUMNS, Row
from skipgraph.scan.isolated import Isolated

if TYPE_CHECKING:
    from skipgraph.inspection import Inspection

_ADDRESS = re.compile(r"\b0x[0-9a-f]{6,}\b")  # of an object, in its words: another one each time


@dataclass(frozen=True, slots=True)
class Settings:
    """How every model of a scan is looked at; see `skipgraph.sources.load` and `skipgraph.inspect`."""

    inputs: tuple[str, ...] = ()
    dtype: str | None = None
    train: bool = False
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Limits:
    """What one model may use: seconds of wall time, and bytes of memory; None is no limit."""

    seconds: float | None = 300.0
    memory_bytes: int | None = 8_000_000_000


@dataclass(frozen=True, slots=True)
class Job:
    """One model of a scan, on its way to whoever prices it.

    Attributes
    ----------
    spec : str
    settings : Settings
    limits : Limits
    scan : str
        A name that no other scan has.
    prefixes : tuple of str
        What stands before the first colon of any SPEC of the scan.
    directory : str
        That relative paths start from.
    """

    spec: str
    settings: Settings
    limits: Limits
    scan: str
    prefixes: tuple[str, ...]
    directory: str


def check(settings: Settings) -> None:
    """Check that settings can be read. It imports PyTorch.

    Raises
    ------
    InputError
        If they cannot.
    """
    from skipgraph.sources.inputs import parse_dtype, parse_inputs

    parse_inputs(settings.inputs)
    if settings.dtype is not None:
        parse_dtype(settings.dtype)


def priced(job: Job) -> Row:
    """The row of one model, whatever becomes of it.

    Raises
    ------
    ProcessError
        If it is lost: what became of it is no property of the model.
    """
    processes = isolated(job.scan, job.prefixes)
    processes.start()
    began = time.perf_counter()
    try:
        row = _again_if_lost(processes, job)
    except SkipgraphError as error:
        if isinstance(error, ProcessError) and error.kind == "lost":
            raise
        row = failed(job.spec, error.message)
    return {**row, "seconds": round(time.perf_counter() - began, 3)}


def _again_if_lost(processes: Isolated, job: Job) -> Row:
    def call() -> Row:
        row: Row = processes.call(_inspected, job, seconds=job.limits.seconds, memory_bytes=job.limits.memory_bytes)
        return row

    try:
        return call()
    except ProcessError as error:
        if error.kind != "lost":
            raise
        return call()


def failed(spec: str, reason: str) -> Row:
    """The row of a model that could not be priced; its reason in one line that is the same every time."""
    line = " ".join(_ADDRESS.sub("0x…", reason).split())
    return {**dict.fromkeys(column.name for column in COLUMNS), "spec": spec, "status": "failed", "reason": line}


def _inspected(job: Job) -> Row:
    """The row of one model, in this process."""
    import numpy

    from skipgraph.inspection import inspect_source
    from skipgraph.sources import load
    from skipgraph.sources.inputs import parse_dtype

    with suppress(OSError):  # on another machine there may be none, and a library's model needs none
        os.chdir(job.directory)
    settings = job.settings
    random.seed(settings.seed)
    numpy.random.seed(settings.seed)
    source = load(
        job.spec,
        inputs=settings.inputs,
        dtype=parse_dtype(settings.dtype) if settings.dtype is not None else None,
        seed=settings.seed,
    )
    return row_of(inspect_source(source, train=settings.train))


def row_of(inspection: Inspection) -> Row:
    """What a row tells of an inspection."""
    from skipgraph.report.json import totals

    graph = inspection.graph
    found = {
        **totals(graph),
        "spec": inspection.spec,
        "status": "priced",
        "method": inspection.method,
        "opaque": len(inspection.opaque),
        "inputs": " ".join(map(_input, inspection.inputs)),
        "parameters": graph.cost.parameters,
        "parameter_bytes": graph.cost.parameter_bytes,
        "unpriced_operators": " ".join(
            f"{name}:{calls}" for name, calls in sorted(graph.cost.unpriced_operators.items())
        ),
        "warnings": len(inspection.warnings),
    }
    return {column.name: found.get(column.name) for column in COLUMNS}


def _input(description: dict[str, Any]) -> str:
    """An input as ``--input`` takes it."""
    shape = "x".join(map(str, description["shape"])) or "scalar"
    return f"{description['name']}={shape}:{description['dtype']}"


_ISOLATED: dict[tuple[str, tuple[str, ...]], Isolated] = {}
_LOCK = threading.Lock()


def isolated(scan: str, prefixes: tuple[str, ...]) -> Isolated:
    """The processes of one scan on this machine, forks of one that has imported what SPECs of such prefixes need."""
    with _LOCK:
        if (scan, prefixes) not in _ISOLATED:
            _ISOLATED[scan, prefixes] = Isolated(functools.partial(_prepare, prefixes))
        return _ISOLATED[scan, prefixes]


def end(scan: str) -> None:
    """End all processes of a scan on this machine."""
    with _LOCK:
        ended = [_ISOLATED.pop(key) for key in [*_ISOLATED] if key[0] == scan]
    for processes in ended:
        processes.close()


def _prepare(prefixes: tuple[str, ...]) -> None:
    import torch

    from skipgraph.inspection import inspect
    from skipgraph.sources import kinds
    from skipgraph.sources.torchvision_operators import declare_missing
    from skipgraph.sources.zoo import library

    declare_missing()
    row_of(inspect(torch.nn.Linear(1, 1), torch.empty(1, 1, device="meta")))  # for what is imported on the way
    for kind in kinds():
        if kind.library and any(kind.pattern.fullmatch(f"{prefix}:name") for prefix in prefixes):
            with suppress(SkipgraphError):
                library(kind.library, kind.name)
