"""A Dask cluster makes the same table, also when it loses a worker on the way."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import skipgraph
from skipgraph.errors import MissingDependencyError, UsageError
from skipgraph.scan import Journal, Limits, Scan, cluster, render
from skipgraph.scan.isolated import Isolated
from tests.scan.conftest import ACCIDENTS

distributed = pytest.importorskip("distributed")
FIXTURES = Path(__file__).parents[2] / "fixtures"
NAMES = ("densenet", "highway", "resnet", "vgg", "aspp", "lora", "csp", "fpn")


@pytest.fixture(scope="module")
def workers() -> Iterator[Any]:
    """Two worker processes of one thread each."""
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None, "host": "127.0.0.1"}
    with distributed.LocalCluster(**options) as cluster:
        yield cluster


def test_the_same_table_though_a_worker_dies(
    shared: Isolated, workers: Any, write: Callable[..., str], tmp_path: Path
) -> None:
    specs = [str(FIXTURES / f"{name}.py") for name in NAMES]
    specs[3:3] = [write(name, ACCIDENTS[name][0]) for name in ("leaves", "crashes", "refuses")]
    limits = Limits(seconds=60)
    killed: list[int] = []

    def kill_one(done: int, all_of_them: int, failed: int) -> None:
        if done >= 4 and not killed:
            killed.append(next(iter(workers.workers.values())).process.pid)
            os.kill(killed[0], signal.SIGKILL)

    path = tmp_path / "journal"
    with Scan(limits=limits) as scan, Journal(path) as journal:
        over_there = scan.rows(specs, scheduler=workers.scheduler_address, journal=journal, tell=kill_one)
    with Scan(limits=limits) as scan:
        here = scan.rows(specs, workers=2)
    assert len(killed) == 1
    assert render(over_there, "csv") == render(here, "csv")
    assert [row["spec"] for row in here] == specs
    assert sum(row["status"] == "failed" for row in here) == 3
    assert len(path.read_text().splitlines()) == len(specs)


def test_other_versions_are_refused(workers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(skipgraph, "__version__", "99")
    with Scan() as scan, pytest.raises(UsageError, match=r"has skipgraph \S+, here it is 99"):
        scan.rows(["a.py"], scheduler=workers.scheduler_address)


def test_a_cluster_without_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "WAIT_SECONDS", 1.0)
    empty = distributed.LocalCluster(n_workers=0, dashboard_address=None, host="127.0.0.1")
    with empty, Scan() as scan, pytest.raises(UsageError, match="has no workers"):
        scan.rows(["a.py"], scheduler=empty.scheduler_address)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:{port}", "nonsense", "http://127.0.0.1:80"])
def test_no_scheduler(address: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(cluster, "WAIT_SECONDS", 1.0)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = address.format(port=taken.getsockname()[1])
        with Scan() as scan, pytest.raises(UsageError, match="no scheduler answers at"):
            scan.rows(["a.py"], scheduler=address)
    assert capfd.readouterr().err == ""


def test_without_distributed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with Scan() as scan, pytest.raises(MissingDependencyError, match="distributed is not installed") as caught:
        scan.rows(["a.py"], scheduler="tcp://127.0.0.1:1")
    assert caught.value.exit_code == 7
    assert "skipgraph[cluster]" in caught.value.remedy


def test_importing_it_imports_neither_pytorch_nor_dask() -> None:
    program = "import sys, skipgraph.scan; sys.exit(bool({'torch', 'distributed', 'pyarrow', 'rich'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
