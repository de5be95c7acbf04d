"""The rows of a scan that has not ended, beside the table that they are for."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, Self

from skipgraph.errors import OutputError
from skipgraph.scan.columns import Row
from skipgraph.scan.pricing import Job


class Journal:
    """Rows as lines of JSON, each written as soon as it is known. Use it in a ``with`` statement.

    A row is taken from it again for the same SPEC, settings and limits, as long as the files that the SPEC names have
    not been written since, and the same packages are installed.

    Parameters
    ----------
    path : Path or None
        None keeps nothing.
    resume : bool
        Take what is there. Otherwise it is overwritten.

    Raises
    ------
    OutputError
        If it cannot be read or written.
    """

    def __init__(self, path: Path | None, *, resume: bool = False) -> None:
        self.path = path
        self._known: dict[str, Row] = {}
        if path is None:
            self._file = None
            return
        try:
            if resume and path.exists():
                self._known = dict(_lines(path))
            self._file = path.open("a" if resume else "w", encoding="utf-8")
            if self._file.tell():
                self._file.write("\n")  # the last line may be half of one
        except OSError as error:
            raise OutputError(f"{path} cannot be written: {error.strerror}", "Write elsewhere.") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.path is None or self._file is None:
            return
        with suppress(OSError):  # of a row that could not be written, and was told
            self._file.close()
        if self.path.is_file() and not self.path.stat().st_size:
            self.remove()  # there is nothing to go on with

    def row(self, job: Job) -> Row | None:
        """The row of a model, if it is known."""
        return self._known.get(key(job))

    def add(self, job: Job, row: Row) -> None:
        """Keep a row.

        Raises
        ------
        OutputError
            If it cannot be written.
        """
        if self._file is None:
            return
        try:
            self._file.write(json.dumps({"key": key(job), "row": row}, ensure_ascii=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise OutputError(f"{self.path} cannot be written: {error.strerror}", "Make room.") from None

    def remove(self) -> None:
        """The table is written."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def _lines(path: Path) -> list[tuple[str, Row]]:
    """What can be read; half a line is what an end in the middle of writing leaves behind."""
    entries = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(ValueError, KeyError, TypeError):
            entry = json.loads(line)
            entries.append((str(entry["key"]), dict(entry["row"])))
    return entries


def key(job: Job) -> str:
    """What the row of a model depends on, as far as can be told without pricing it."""
    told = [job.spec, asdict(job.settings), asdict(job.limits), _files(job.spec, Path(job.directory)), _environment()]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:32]


def _files(spec: str, directory: Path) -> list[Any]:
    """Sizes and times of the files that a SPEC names."""
    found = []
    for part in (spec, *spec.split(":")):
        path = directory / part
        with suppress(OSError, ValueError):
            if part and path.exists():
                files = sorted(path.iterdir()) if path.is_dir() else [path]
                found += [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return found


@cache
def _environment() -> list[str]:
    """Python, and every package that is installed: there is no telling what a model needs."""
    packages = {f"{one.metadata['Name']}=={one.version}" for one in distributions()}
    return [platform.python_version(), os.name, *sorted(packages)]
