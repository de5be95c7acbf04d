"""One call in a process of its own, which may hang, crash or fill the memory and costs that call alone.

Importing PyTorch and the libraries of models takes seconds, so the processes are forks of one that has imported them
(``multiprocessing``'s fork server is made in the same way, but knows no limits, may not be used by daemonic processes,
such as the workers of a cluster, and imports the caller's main module again). See `skipgraph.scan.server` for what
happens over there. This is a fence against accidents, not against malice: the call has the rights of its caller.
"""

from __future__ import annotations

import json
import os
import pickle
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

from skipgraph.errors import ProcessError

_START_SECONDS = 180.0  # for imports on a busy machine
_SERVER = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from skipgraph.scan.server import serve
serve(int(sys.argv[2]))
"""


class Isolated:
    """Runs calls in processes of their own, from as many threads as like. Use it in a ``with`` statement.

    The processes end with this object, and with the process that it lives in, however that ends. What they print goes
    nowhere. Each has one thread for PyTorch, unless ``OMP_NUM_THREADS`` says otherwise. It needs a system that can
    fork: Linux or macOS.

    Parameters
    ----------
    prepare : callable, optional
        Called once, without arguments, in the process that all others are forks of; to import what takes long. It must
        start no threads and do no arithmetic. What it raises is ignored: the calls will meet the same.

    Examples
    --------
    >>> import operator
    >>> with Isolated() as isolated:
    ...     isolated.call(operator.add, 2, 3, seconds=60, memory_bytes=2**30)
    5
    """

    def __init__(self, prepare: Callable[[], object] | None = None) -> None:
        self._prepare = prepare
        self._lock = threading.Lock()
        self._server: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._calls: set[socket.socket] = set()
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def call(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        seconds: float | None = None,
        memory_bytes: int | None = None,
    ) -> Any:
        """Run ``function(*arguments)`` in a process of its own, in the present working directory.

        Parameters
        ----------
        function : callable
            Can be imported by its name: no lambda, and nothing that a script defines.
        *arguments : object
            Can be pickled, as the result must be.
        seconds : float, optional
            Of wall time, from when the process starts; nothing that it imports has to be waited for before.
        memory_bytes : int, optional
            The most that the process may have in memory at a time: its resident set, libraries included. What is
            reserved and never touched does not count. A limit of address space would be kept more strictly, but
            PyTorch reserves far more than it uses. On Linux it is looked at 20 times a second, so that a process may
            be beyond it for a moment; the peak is looked at when it has ended.

        Returns
        -------
        object
            What the function returned.

        Raises
        ------
        ProcessError
            If there is no result; its ``kind`` says why.
        SkipgraphError
            What the function raised, if it is one; all other exceptions are told by a `ProcessError`.
        """
        request = pickle.dumps((function, arguments)), str(Path.cwd()), seconds, memory_bytes
        try:
            with self._connected() as connection:
                connection.send(request)
                outcome = connection.recv()
        except (EOFError, OSError):
            raise ProcessError("its process was lost: who watched it is gone", "Run it again.", kind="lost") from None
        kind, details = outcome
        if kind == "returned":
            return pickle.loads(details)
        raise details if kind == "refused" else ProcessError(kind=kind, **details)

    def start(self) -> None:
        """Get ready for calls, which otherwise the first of them has to wait for.

        Raises
        ------
        ProcessError
            If that fails.
        """
        with self._lock:
            self._start_if_needed()

    def close(self) -> None:
        """End all calls and processes; threads that wait for a call get a `ProcessError`."""
        self._closed = True
        if self._server is not None:
            self._server.kill()  # who holds the lock may wait for it to start
        with self._lock:
            for call in self._calls:
                with suppress(OSError):
                    call.shutdown(socket.SHUT_RDWR)  # over there the connection ends, and with it the call
            if self._control is not None:
                self._control.close()
            if self._server is not None:
                self._server.wait()

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        """A connection to a fork of the server."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            with self._lock:
                self._send(theirs)
                self._calls.add(ours)
            theirs.close()
            try:
                with Connection(os.dup(ours.fileno())) as connection:
                    yield connection
            finally:
                with self._lock:
                    self._calls.remove(ours)

    def _send(self, end: socket.socket) -> None:
        """Give one end of a connection to the server."""
        socket.send_fds(self._start_if_needed(), [b"\0"], [end.fileno()])

    def _start_if_needed(self) -> socket.socket:
        """The connection to the server, to one that is started anew if it has ended."""
        if self._closed:
            raise ProcessError("its process was not started: all of them are ended", kind="lost")
        if self._control is None or self._server is None or self._server.poll() is not None:
            self._control = self._started()
        return self._control

    def _started(self) -> socket.socket:
        if not hasattr(os, "fork"):
            raise ProcessError("this system cannot fork processes", "Use Linux or macOS.", kind="lost")
        control, theirs = socket.socketpair()
        with theirs, tempfile.TemporaryFile() as said:
            server = self._server = subprocess.Popen(
                [sys.executable, "-c", _SERVER, json.dumps(sys.path), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # an interrupt at the terminal is the caller's to deal with
                env={"OMP_NUM_THREADS": "1", **os.environ},
            )
            theirs.close()
            control.settimeout(_START_SECONDS)
            try:
                with Connection(os.dup(control.fileno())) as connection:
                    connection.send(self._prepare)
                if control.recv(1):
                    control.settimeout(None)
                    return control
            except OSError:
                pass
            control.close()
            server.kill()
            server.wait()
            said.seek(0)
            words = said.read().decode(errors="replace").strip().splitlines()
        why = words[-1] if words else f"exit code {server.returncode}"
        raise ProcessError(f"the process that starts all others did not come up: {why}", kind="lost")
