"""Rows are what `inspect` finds; whatever befalls a model costs its own row alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import pytest

from skipgraph.errors import InputError, MissingDependencyError, ProcessError, SourceError, UsageError
from skipgraph.inspection import inspect_source
from skipgraph.report.json import totals
from skipgraph.scan import COLUMNS, Journal, Limits, Row, Scan, Settings, pricing
from skipgraph.scan.isolated import Isolated
from skipgraph.scan.sweep import sweep
from skipgraph.sources import load
from tests.scan.conftest import ACCIDENTS

FIXTURES = Path(__file__).parents[2] / "fixtures"
SPECS = [str(FIXTURES / f"{name}.py") for name in ("unet", "densenet", "highway", "lstm_unrolled")]


def table(rows: list[Row]) -> list[Row]:
    """Rows without what differs from one time to the next."""
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def test_rows_are_inspections(shared: Isolated) -> None:
    with Scan() as scan:
        rows = scan.rows([*SPECS, SPECS[0]], workers=2)
    assert [row["spec"] for row in rows] == SPECS
    for row in rows:
        inspection = inspect_source(load(str(row["spec"])))
        found = totals(inspection.graph)
        shown = {name: row[name] for name in found if name in row and name != "unpriced_operators"}
        assert shown == {name: found[name] for name in shown}
        assert len(shown) == 17  # all figures, without what is kept for a backward pass
        assert row["unpriced_operators"] == " ".join(f"{k}:{n}" for k, n in found["unpriced_operators"].items())
        assert (row["status"], row["reason"], row["method"], row["opaque"]) == ("priced", None, "meta", 0)
        assert row["parameters"] == inspection.graph.cost.parameters
        assert isinstance(row["seconds"], float)


def test_settings_are_for_all(shared: Isolated, write: Callable[..., str]) -> None:
    settings = Settings(inputs=("2x3x16x16",), dtype="bf16", train=True)
    with Scan(settings) as scan:
        scan.check()
        rows = scan.rows([write("one"), write("two")], workers=2)
    assert [row["inputs"] for row in rows] == ["x=2x3x16x16:bfloat16"] * 2
    assert all(isinstance(row["saved_bytes"], int) for row in rows)
    with Scan(Settings(inputs=("3y3",))) as scan, pytest.raises(InputError, match="'3y3' cannot be read"):
        scan.check()
    with Scan(Settings(dtype="float3")) as scan, pytest.raises(InputError, match="unknown dtype"):
        scan.check()


def test_accidents_cost_their_own_row_alone(
    shared: Isolated, write: Callable[..., str], capfd: pytest.CaptureFixture[str]
) -> None:
    specs = [write("first"), *(write(name, text) for name, (text, _) in ACCIDENTS.items()), "absent.py"]
    specs.append(write("talks", "import sys\nfor _ in range(9000): print('x' * 99); sys.stderr.write('y' * 99)\n"))
    specs.append(write("last"))
    with Scan(limits=Limits(seconds=4, memory_bytes=1_000_000_000)) as scan:
        rows = scan.rows(specs, workers=2)
    assert [row["spec"] for row in rows] == specs
    by_name = {Path(str(row["spec"])).stem: row for row in rows}
    for name, (_, reason) in ACCIDENTS.items():
        expected = reason.format(path=by_name[name]["spec"])
        assert str(by_name[name]["reason"]).startswith(expected)
        assert by_name[name]["status"] == "failed"
        assert {by_name[name][column.name] for column in COLUMNS[3:]} == {None}
    assert str(by_name["refuses"]["reason"]).endswith("ValueError: odd <object object at 0x…>")
    assert by_name["absent"]["reason"] == "no such file: absent.py"
    assert by_name["talks"]["reason"] == f"no torch.nn.Module is defined in {by_name['talks']['spec']}"
    assert by_name["first"]["status"] == by_name["last"]["status"] == "priced"
    assert by_name["first"].keys() == by_name["hangs"].keys()
    assert capfd.readouterr() == ("", "")


def test_names_of_a_library(shared: Isolated) -> None:
    pytest.importorskip("torchvision")
    with Scan() as scan:
        assert "torchvision:resnet18" in scan.listed("torchvision")
        with pytest.raises(SourceError, match="no list of the models of 'nobody'") as caught:
            scan.listed("nobody")
    assert "timm" in caught.value.remedy


class Elsewhere(Executor):
    """An executor whose calls end as they are told to."""

    def __init__(self, *ends: Any) -> None:
        self.ends = [*ends]

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **_: Any) -> Future[Any]:
        future: Future[Any] = Future()
        end = self.ends.pop(0)
        if end == "cancel":
            future.cancel()
            future.set_running_or_notify_cancel()
        elif isinstance(end, BaseException):
            future.set_exception(end)
        else:
            future.set_result({"spec": arguments[0].spec, "status": "priced"})
        return future


def test_what_is_lost_is_no_property_of_the_model(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    jobs = Scan()._jobs(["a", "b", "c"])
    told: list[tuple[int, int, int]] = []
    lost = ProcessError("its process was lost: nobody knows", kind="lost")
    with Journal(path) as journal:
        rows = sweep(Elsewhere(None, lost, OSError("gone")), jobs, journal, lambda *counts: told.append(counts))
    assert [row["status"] for row in rows] == ["priced", "failed", "failed"]
    assert [row.get("reason") for row in rows] == [None, "its process was lost: nobody knows", "was lost: gone"]
    assert (told[0], told[-1]) == ((0, 3, 0), (3, 3, 2))
    with Journal(path, resume=True) as journal:
        assert [journal.row(job) is not None for job in jobs] == [True, False, False]
        rows = sweep(Elsewhere(None, None), jobs, journal)
    assert [row["status"] for row in rows] == ["priced"] * 3


def test_a_cluster_that_is_gone_ends_the_scan() -> None:
    with pytest.raises(UsageError, match="connection to the cluster was lost"):
        sweep(Elsewhere("cancel"), Scan()._jobs(["a"]), Journal(None))


def test_a_process_that_is_lost_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    class Losing:
        def __init__(self, times: int) -> None:
            self.times = times

        def start(self) -> None:
            pass

        def call(self, *_: Any, **__: Any) -> Row:
            self.times -= 1
            if self.times >= 0:
                raise ProcessError("lost", kind="lost")
            return {"spec": "a"}

    (job,) = Scan()._jobs(["a"])
    monkeypatch.setattr(pricing, "isolated", lambda scan, prefixes: once)
    once = Losing(1)
    assert pricing.priced(job)["spec"] == "a"
    once = Losing(2)
    with pytest.raises(ProcessError):
        pricing.priced(job)


def test_closing_a_scan_ends_its_processes_alone() -> None:
    first, second = pricing.isolated("one", ()), pricing.isolated("other", ())
    assert pricing.isolated("one", ()) is first
    pricing.end("one")
    pricing.end("one")
    with pytest.raises(ProcessError, match="not started"):
        first.call(abs, -1)
    assert pricing.isolated("other", ()) is second
    pricing.end("other")


def test_prefixes_say_what_to_import(monkeypatch: pytest.MonkeyPatch) -> None:
    imported: list[str] = []
    monkeypatch.setattr("skipgraph.sources.zoo.library", lambda name, extra: imported.append(name))
    pricing._prepare(("timm", "fixtures/unet.py"))
    assert imported == ["timm"]


def test_a_missing_library_is_an_error_of_its_own(shared: Isolated, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingDependencyError) as caught:
        shared.call(_missing)
    assert caught.value.exit_code == 7
    assert caught.value.remedy == "Install it."


def _missing() -> None:
    raise MissingDependencyError("timm is not installed", "Install it.")


def test_threads_may_scan_at_once(shared: Isolated, write: Callable[..., str]) -> None:
    spec, found = write(), []

    def scan() -> None:
        with Scan() as one:
            found.append(table(one.rows([spec], workers=1)))

    threads = [threading.Thread(target=scan) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert found[0] == found[1] == found[2]
