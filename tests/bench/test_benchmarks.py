"""The benchmark over the standard set: its table, and that it keeps to its time."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module; its own folder is where it finds the standard set."""
    monkeypatch.syspath_prepend(str(FOLDER))
    spec = importlib.util.spec_from_file_location("benchmarks_gpu", FOLDER / "gpu.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def test_table(script: ModuleType) -> None:
    timed = {
        "a": {"seconds": 0.01, "peak_bytes": 2**21},
        "b": {"seconds": 0.008, "peak_bytes": 2**20},
        "ratio": {"value": 0.8, "low": 0.79, "high": 0.82},
        "verdict": "B is faster",
    }
    rows = [
        {"model": "net", "setting": "bf16", "way": "separate", "bench": timed},
        {"model": "net", "setting": "", "way": "model", "failed": "nothing to rewrite"},
    ]
    assert script.markdown(rows).splitlines()[-1] == (
        "| net | bf16 | 10 ms, 2 MiB | – | 0.80 (0.79–0.82), peak 0.50 | – | – |"
    )


def test_time_is_kept(script: ModuleType) -> None:
    rows = script.Rows(time.monotonic() + 4)
    with rows.step("time", "net", "model") as fits:
        assert fits
    with rows.step("rewrite", "net", "separate") as fits:
        assert not fits
    rows._taken["time", "net"] = 60.0  # what a comparison of this model took before
    with rows.step("time", "net", "model", "bf16") as fits:
        assert not fits
    assert rows.left_out == ["net, separate", "net, model, bf16"]


def test_no_such_device() -> None:
    done = subprocess.run([sys.executable, FOLDER / "gpu.py", "--device", "tpu"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "unknown device 'tpu'" in done.stderr
    assert done.stdout == ""
