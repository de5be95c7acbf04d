"""``skipgraph plan``: the trade-off as a table, JSON and a plot, and that the budgets lie on it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.cli.conftest import run

if TYPE_CHECKING:
    from pathlib import Path

SPEC = ("fixtures/unet.py:UNet(width=4)", "--input", "1x3x32x32", "--quiet")


def test_budgets_lie_on_the_line(tmp_path: Path) -> None:
    data = tmp_path / "inputs.npz"
    np.savez(data, image=np.random.default_rng(0).normal(size=(24, 3, 32, 32)).astype(np.float32))
    done = run("plan", *SPEC, "--calibrate", data, "--json", "-o", tmp_path / "plot.svg")
    assert (done.code, done.stderr) == (0, "")
    points = json.loads(done.stdout)["points"]
    assert len(points) > 5
    assert [one["flops"] for one in points] == sorted((one["flops"] for one in points), reverse=True)
    assert [one["error"] for one in points] == sorted(one["error"] for one in points)
    assert (tmp_path / "plot.svg").read_bytes().startswith(b"<?xml")
    middle = points[len(points) // 2]
    share = 100 * (1 - middle["flops"] / points[0]["flops"])
    asked = ("--concat-to-sum", "--dry-run", "--json", "--calibrate", data, "--budget", f"flops=-{share - 0.01:.4f}%")
    report = json.loads(run("rewrite", *SPEC, *asked).stdout)
    assert report["factors"]["predicted_error"] == pytest.approx(middle["error"], rel=0.05)
    assert report["after"]["flops"] == pytest.approx(middle["flops"], rel=0.02)


def test_the_table_and_what_cannot_be_drawn(tmp_path: Path) -> None:
    done = run("plan", *SPEC)
    assert done.code == 0, done.stderr
    assert done.stdout.split("\n")[0].split() == [
        "multiply-adds", "of", "all", "parameters", "of", "all", "layers", "factored", "predicted", "error",
    ]  # fmt: skip
    assert "1.000" in done.stdout
    refused = run("plan", *SPEC, "-o", tmp_path / "plot.bmp")
    assert refused.code == 2
    assert "no plot can be written as plot.bmp" in refused.stderr
    assert run("plan", "fixtures/resnet.py", "--quiet").code == 5
