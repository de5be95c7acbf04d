"""A Dask cluster as what runs the calls of a scan."""

from __future__ import annotations

import asyncio
import importlib.metadata
import importlib.util
import platform
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import skipgraph
from skipgraph.errors import MissingDependencyError, UsageError
from skipgraph.scan.pricing import end
from skipgraph.silence import silent

WAIT_SECONDS = 15.0
_RETRIES = 3  # of a call whose worker is lost


def check_installed() -> None:
    """Check that there is a client.

    Raises
    ------
    MissingDependencyError
        If there is none.
    """
    if importlib.util.find_spec("distributed") is None:
        raise MissingDependencyError("distributed is not installed", 'Install it: pip install "skipgraph[cluster]"')


@contextmanager
def connected(address: str, scan: str) -> Iterator[Executor]:
    """The workers of the scheduler at this address, such as ``tcp://host:8786``.

    A call whose worker dies is given to another one by Dask. The processes of the scan end with the block.

    Raises
    ------
    MissingDependencyError
        If Dask's client is not installed.
    UsageError
        If no scheduler answers, it has no workers, or these have other versions of what the table depends on.
    """
    check_installed()
    import distributed

    with silent("distributed"), ThreadPoolExecutor(1) as thread:  # the caller's may have an event loop already
        reached = thread.submit(asyncio.run, _reach(address)).exception()
    if reached is not None:
        words = str(reached).partition("\n")[0] or type(reached).__name__
        raise UsageError(
            f"no scheduler answers at {address}: {words}", "Check the address, and that dask scheduler runs there."
        )
    client = distributed.Client(address, timeout=WAIT_SECONDS, set_as_default=False)
    with client, silent("distributed.client"):
        _check_workers(client, address)
        executor = client.get_executor(pure=False, retries=_RETRIES)
        try:
            yield executor
        finally:
            executor.shutdown(wait=False)
            with suppress(Exception):  # whoever does not answer has nothing to end
                client.run(end, scan, on_error="ignore")


async def _reach(address: str) -> None:
    """Connect as a client would; one that fails in the middle of it would be in the way for long."""
    from distributed import Security
    from distributed.comm import connect

    connection = await connect(address, timeout=WAIT_SECONDS, **Security().get_connection_args("client"))
    await connection.close()


def _check_workers(client: Any, address: str) -> None:
    """Check that there are workers, and that rows of theirs are rows of ours."""
    try:
        client.wait_for_workers(1, timeout=WAIT_SECONDS)
    except TimeoutError:
        raise UsageError(f"the scheduler at {address} has no workers", f"Start some: dask worker {address}") from None
    ours = versions()
    for worker, theirs in client.run(versions, on_error="return").items():
        if isinstance(theirs, BaseException):
            words = f"{type(theirs).__name__}: {theirs}"
            raise UsageError(f"the worker {worker} cannot run skipgraph: {words}", "Install skipgraph there.")
        for name in ours:
            if theirs.get(name) != ours[name]:
                raise UsageError(
                    f"the worker {worker} has {name} {theirs.get(name)}, here it is {ours[name]}",
                    "Install the same versions everywhere, or tables will depend on who makes them.",
                )


def versions() -> dict[str, str]:
    """Of what every row depends on; builds for other devices count as the same."""
    torch = importlib.metadata.version("torch").partition("+")[0]
    return {"skipgraph": skipgraph.__version__, "torch": torch, "Python": ".".join(platform.python_version_tuple()[:2])}
