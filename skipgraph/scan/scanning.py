"""The whole of a scan: where it runs, and what is left when it ends."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

from skipgraph.scan.cluster import connected
from skipgraph.scan.columns import Row
from skipgraph.scan.journal import Journal
from skipgraph.scan.names import listed
from skipgraph.scan.pricing import Job, Limits, Settings, check, end, isolated
from skipgraph.scan.sweep import Tell, local, sweep


class Scan:
    """Prices many models, each in a process of its own. Use it in a ``with`` statement: its processes end with it.

    Parameters
    ----------
    settings : Settings
        How the models are looked at.
    limits : Limits
        What each of them may use.

    Examples
    --------
    >>> from skipgraph.scan import Scan
    >>> with Scan() as scan:
    ...     for row in scan.rows(["fixtures/unet.py", "fixtures/absent.py"], workers=1):
    ...         print(row["spec"], row["status"], row["skips"], row["reason"])
    fixtures/unet.py priced 4 None
    fixtures/absent.py failed None no such file: fixtures/absent.py
    """

    def __init__(self, settings: Settings | None = None, limits: Limits | None = None) -> None:
        self.settings = settings or Settings()
        self.limits = limits or Limits()
        self._name = uuid.uuid4().hex

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        end(self._name)

    def check(self, specs: Iterable[str] = ()) -> None:
        """Check that the settings can be read, before these models are priced.

        Raises
        ------
        InputError
            If they cannot.
        """
        if self.settings.inputs or self.settings.dtype is not None:
            self._apart(_prefixes(specs), check, self.settings)

    def listed(self, zoo: str) -> list[str]:
        """SPECs of all models of a library: ``"timm"``, ``"torchvision"``, ``"hf"``, or a source that was added.

        Raises
        ------
        SourceError
            If there is no such source, or it has no list.
        MissingDependencyError
            If the library is not installed.
        """
        found: list[str] = self._apart((zoo,), listed, zoo)
        return found

    def _apart(self, prefixes: tuple[str, ...], function: Any, *arguments: Any) -> Any:
        """Call what imports PyTorch or a library where that is done already, or will have to be done anyway."""
        return isolated(self._name, prefixes).call(function, *arguments)

    def rows(
        self,
        specs: Iterable[str],
        *,
        workers: int | None = None,
        scheduler: str | None = None,
        journal: Journal | None = None,
        tell: Tell | None = None,
    ) -> list[Row]:
        """One row for each SPEC, in their order.

        Parameters
        ----------
        specs : iterable of str
            One that comes again is left out.
        workers : int, optional
            Models at a time on this machine; by default as many as it has cores.
        scheduler : str, optional
            The address of a Dask scheduler, whose workers do the work instead.
        journal : Journal, optional
            Keeps the rows as they come, and knows those of an earlier scan.
        tell : callable, optional
            Is told how many models are done, how many there are, and how many have failed so far.

        Returns
        -------
        list of dict
            The names and units of their entries are those of `skipgraph.scan.COLUMNS`; and ``seconds``.

        Raises
        ------
        MissingDependencyError
            If there is no client for the scheduler.
        UsageError
            If the scheduler does not answer, has no workers that can do the work, or is lost.
        """
        jobs = self._jobs(list(dict.fromkeys(specs)))
        where = connected(scheduler, self._name) if scheduler is not None else local(self._name, workers)
        with where as executor:
            return sweep(executor, jobs, journal or Journal(None), tell)

    def _jobs(self, specs: Sequence[str]) -> list[Job]:
        prefixes, directory = _prefixes(specs), str(Path.cwd())
        return [Job(spec, self.settings, self.limits, self._name, prefixes, directory) for spec in specs]


def _prefixes(specs: Iterable[str]) -> tuple[str, ...]:
    """What stands before the first colon: it says which libraries are needed."""
    return tuple(sorted({spec.partition(":")[0] for spec in specs if ":" in spec}))
