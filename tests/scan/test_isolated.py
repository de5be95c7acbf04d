"""A call in a process of its own costs nobody else anything, and says what became of it."""

from __future__ import annotations

import operator
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import pytest

from skipgraph.errors import ModelError, ProcessError
from skipgraph.scan.isolated import Isolated
from tests.scan import accidents


@pytest.fixture(scope="module")
def isolated() -> Iterator[Isolated]:
    with Isolated() as isolated:
        yield isolated


def failure(isolated: Isolated, function: Any, *arguments: Any, **limits: Any) -> ProcessError:
    with pytest.raises(ProcessError) as caught:
        isolated.call(function, *arguments, **limits)
    assert isolated.call(operator.add, 2, 3) == 5  # nobody else is any the worse for it
    return caught.value


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text() if Path("/proc/self").exists() else True


def ends(process: int) -> bool:
    """Whether a process ends within a few seconds."""
    return any(not alive(process) or time.sleep(0.05) for _ in range(100))


def test_a_result(isolated: Isolated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(isolated.call(accidents.large)) == 20_000_000
    monkeypatch.chdir(tmp_path)
    assert isolated.call(accidents.where) == str(tmp_path)
    assert isolated.call(accidents.threads) == os.environ.get("OMP_NUM_THREADS", "1")


def test_out_of_time(isolated: Isolated) -> None:
    start = time.perf_counter()
    error = failure(isolated, accidents.hang, seconds=0.3)
    assert (error.kind, error.message) == ("time", "ran longer than 0.3 s")
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("function", [accidents.grow, accidents.grow_and_return])
def test_out_of_memory(isolated: Isolated, function: Any) -> None:
    error = failure(isolated, function, memory_bytes=300_000_000, seconds=60)
    assert (error.kind, error.message) == ("memory", "needed more than 0.3 GB of memory")


def test_more_memory_than_there_is(isolated: Isolated) -> None:
    error = failure(isolated, accidents.fill)
    assert (error.kind, error.message) == ("memory", "ran out of memory")


def test_death_by_a_signal(isolated: Isolated) -> None:
    error = failure(isolated, accidents.crash)
    assert (error.kind, error.code, error.message) == ("signal", 11, "died by signal 11 (SIGSEGV)")
    error = failure(isolated, accidents.end, int(signal.SIGKILL))
    assert (error.kind, error.code, error.message) == ("signal", 9, "died by signal 9 (SIGKILL)")


@pytest.mark.parametrize("code", [0, 3])
def test_ends_itself(isolated: Isolated, code: int) -> None:
    error = failure(isolated, accidents.leave, code)
    assert (error.kind, error.code, error.message) == ("exit", code, f"ended itself with exit code {code}")


def test_raises(isolated: Isolated) -> None:
    error = failure(isolated, accidents.refuse)
    assert (error.kind, error.raised, error.message) == ("raised", "ValueError", "raised ValueError: odd input")
    assert "in refuse" in error.trace
    assert isinstance(error, ModelError)
    error = failure(isolated, accidents.quit_program)
    assert (error.kind, error.raised, error.message) == ("raised", "SystemExit", "raised SystemExit: enough")


def test_a_result_that_cannot_be_sent(isolated: Isolated) -> None:
    error = failure(isolated, accidents.unpicklable)
    assert error.kind == "result"
    assert "its result cannot be sent" in error.message


def test_closes_what_is_not_its_own(isolated: Isolated) -> None:
    assert failure(isolated, accidents.close_everything).kind == "signal"


def test_what_it_prints_goes_nowhere(isolated: Isolated, capfd: pytest.CaptureFixture[str]) -> None:
    assert isolated.call(accidents.chat) == 0
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("code", [None, 4])
def test_what_it_has_started_ends_with_it(isolated: Isolated, tmp_path: Path, code: int | None) -> None:
    target = tmp_path / "process"
    if code is None:
        assert isolated.call(accidents.start_child, target, code, seconds=60) == "done"
    else:
        assert failure(isolated, accidents.start_child, target, code, seconds=60).code == code
    assert ends(int(target.read_text()))


def test_preparation_is_done_once() -> None:
    with Isolated(accidents.prepare) as isolated:
        seen = {tuple(isolated.call(accidents.prepared)) for _ in range(3)}
    assert len(seen) == 1


def test_preparation_that_fails(capfd: pytest.CaptureFixture[str]) -> None:
    with Isolated(accidents.prepare_badly) as isolated:
        assert isolated.call(operator.add, 2, 3) == 5
    with Isolated(accidents.crash_while_preparing) as isolated, pytest.raises(ProcessError, match="did not come up"):
        isolated.call(operator.add, 2, 3)
    assert capfd.readouterr() == ("", "")


def test_many_threads(isolated: Isolated) -> None:
    results: list[int] = []
    threads = [
        threading.Thread(target=lambda number=number: results.append(isolated.call(operator.mul, number, 2)))
        for number in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [*range(0, 40, 2)]


def test_the_server_is_started_again() -> None:
    with Isolated() as isolated:
        assert isolated.call(operator.add, 2, 3) == 5
        assert isolated._server is not None
        isolated._server.kill()
        isolated._server.wait()
        assert isolated.call(operator.add, 2, 3) == 5


def test_closing_ends_calls() -> None:
    isolated = Isolated()
    errors: list[ProcessError] = []

    def call() -> None:
        with pytest.raises(ProcessError) as caught:
            isolated.call(accidents.hang)
        errors.append(caught.value)

    threads = [threading.Thread(target=call) for _ in range(2)]
    for thread in threads:
        thread.start()
    while len(isolated._calls) < 2:
        time.sleep(0.01)
    isolated.close()
    for thread in threads:
        thread.join()
    assert [error.kind for error in errors] == ["lost", "lost"]
    with pytest.raises(ProcessError, match="not started"):
        isolated.call(operator.add, 2, 3)


def test_nothing_is_left_of_a_caller_that_was_killed(tmp_path: Path) -> None:
    target = tmp_path / "process"
    program = (
        "import pathlib; from skipgraph.scan.isolated import Isolated; from tests.scan import accidents\n"
        f"Isolated().call(accidents.say_and_hang, pathlib.Path({str(target)!r}))"
    )
    caller = subprocess.Popen([sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": ":".join(sys.path)})
    while not target.exists():
        time.sleep(0.02)
    runner, watcher = map(int, target.read_text().split())
    assert alive(runner)
    caller.kill()
    caller.wait()
    assert ends(runner)
    assert ends(watcher)


def _from_a_daemon(_: int) -> int:
    with Isolated() as isolated:
        return int(isolated.call(operator.add, 2, 3))


def test_a_daemonic_process_may_use_it() -> None:
    with Pool(1) as pool:  # its processes may have no children by multiprocessing, nor do those of a cluster
        assert pool.map(_from_a_daemon, [0]) == [5]
