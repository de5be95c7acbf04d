"""The other side of `skipgraph.scan.isolated`: three kinds of processes, each a fork of the one before.

::

    server       has imported what takes long, and does nothing but fork
    └── watcher  one for each call: waits, holds the limits, sends the outcome to the caller
        └── runner   runs the function, and may do what it likes

The watcher ends its runner as soon as the caller's end of the connection is closed, the server itself when the caller
has closed its own: so nothing is left over when the caller is killed. An outcome is ``("returned", pickle of the
result)``, ``("refused", an error of skipgraph)``, or the ``kind`` of a `skipgraph.errors.ProcessError` and its other
arguments.
"""

from __future__ import annotations

import gc
import os
import pickle
import resource
import signal
import socket
import subprocess
import sys
import time
import traceback
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NoReturn

from skipgraph.errors import SkipgraphError

Outcome = tuple[str, Any]
Ended = tuple[int, int, resource.struct_rusage]  # what wait4 tells
_IDLE_SECONDS = 600.0  # a caller that was cut off from its cluster says no goodbye; one that comes again starts another
_HAS_PROC = Path("/proc/self/statm").exists()
_LOOK_SECONDS = 0.05 if _HAS_PROC else 0.5  # elsewhere a look at memory is a program that is run
_MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024


def serve(control_number: int) -> None:
    """Fork a watcher for every connection that comes in at a socket, until that is closed or silent for long."""
    with socket.socket(fileno=control_number) as control:
        with Connection(os.dup(control.fileno())) as connection, suppress(BaseException):
            prepare = connection.recv()
            if prepare is not None:
                prepare()
        control.send(b"\0")
        gc.freeze()  # a collection would write to, and so copy, every page that forks share
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how a watcher ended
        control.settimeout(_IDLE_SECONDS)
        while True:
            try:
                data, descriptors, _, _ = socket.recv_fds(control, 1, 1)
            except TimeoutError:
                return
            if not data:
                return
            with Connection(descriptors[0]) as caller:
                if os.fork() == 0:
                    control.close()
                    _leave(lambda: _watch(caller))


def _leave(work: Any) -> NoReturn:
    """Do the work of a fork, and end it without what its parent would do at its end."""
    try:
        work()
    finally:
        os._exit(0)


def _watch(caller: Connection) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    request, directory, seconds, memory_bytes = caller.recv()
    reader, writer = Pipe(duplex=False)
    kills = _kills_for_memory()
    runner = os.fork()
    if runner == 0:
        caller.close()
        reader.close()
        _leave(lambda: writer.send(_outcome(request, directory)))
    writer.close()
    with suppress(OSError):
        os.setpgid(runner, runner)  # the runner does the same: whoever comes first
    outcome, ended = _awaited(runner, reader, caller, seconds, memory_bytes)
    with suppress(ProcessLookupError):
        os.killpg(runner, signal.SIGKILL)  # what the runner itself has started is in its group
    _, status, usage = ended or os.wait4(runner, 0)
    if outcome is None:
        outcome = _death(os.waitstatus_to_exitcode(status), out_of_memory=_kills_for_memory() > kills)
    if memory_bytes is not None and usage.ru_maxrss * _MAXRSS_BYTES > memory_bytes:
        outcome = _beyond_memory(memory_bytes)
    with suppress(OSError):
        caller.send(outcome)


def _awaited(
    runner: int, reader: Connection, caller: Connection, seconds: float | None, memory_bytes: int | None
) -> tuple[Outcome | None, Ended | None]:
    """What the runner sends, or the limit that it broke; None if it ended without a word, or nobody waits any more."""
    deadline = time.monotonic() + seconds if seconds is not None else float("inf")
    ended = None
    while True:
        ready = wait([reader, caller], timeout=_LOOK_SECONDS)
        if reader in ready:
            try:
                return reader.recv(), ended
            except (EOFError, OSError):  # it is ending, or has closed what it would have to send a result by
                return None, ended
        if caller in ready or ended:
            return None, ended
        if time.monotonic() > deadline:
            return ("time", {"message": f"ran longer than {seconds:g} s"}), ended
        if memory_bytes is not None and _resident_bytes(runner) > memory_bytes:
            return _beyond_memory(memory_bytes), ended
        seen = os.wait4(runner, os.WNOHANG)
        ended = seen if seen[0] else None  # what it sent before it ended is in the pipe: look once more


def _outcome(request: bytes, directory: str) -> Outcome:
    """Run the function, in the runner."""
    with suppress(OSError):
        os.setpgid(0, 0)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nowhere, stream)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))  # no file of a crash
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # if the system must end something, then this
    try:
        os.chdir(directory)
        function, arguments = pickle.loads(request)
        result = function(*arguments)
    except MemoryError as error:
        return "memory", {"message": f"ran out of memory: {error}".removesuffix(": ")}
    except SkipgraphError as error:
        return "refused", error
    except BaseException as error:
        return "raised", {
            "message": f"raised {type(error).__name__}: {error}".removesuffix(": "),
            "raised": type(error).__name__,
            "trace": traceback.format_exc(),
        }
    try:
        return "returned", pickle.dumps(result)
    except Exception as error:
        return "result", {"message": f"its result cannot be sent: {type(error).__name__}: {error}"}


def _death(code: int, *, out_of_memory: bool) -> Outcome:
    """Why a process ended that sent nothing, from its exit code, which is negative for a signal."""
    if code >= 0:
        return "exit", {"message": f"ended itself with exit code {code}", "code": code}
    if code == -signal.SIGKILL and out_of_memory:
        return "memory", {"message": "was ended by the system, which was out of memory"}
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = "of no name"
    return "signal", {"message": f"died by signal {-code} ({name})", "code": -code}


def _beyond_memory(memory_bytes: int) -> Outcome:
    return "memory", {"message": f"needed more than {memory_bytes / 1e9:.3g} GB of memory"}


def _resident_bytes(process: int) -> int:
    """Bytes that a process has in memory; 0 once it has ended."""
    if not _HAS_PROC:
        done = subprocess.run(["ps", "-o", "rss=", "-p", str(process)], capture_output=True, text=True, check=False)
        return int(done.stdout.strip() or 0) * 1024
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return 0


def _kills_for_memory() -> int:
    """How many processes the system has ended so far because it was out of memory; 0 where it does not say."""
    with suppress(OSError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0
