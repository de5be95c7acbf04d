"""``skipgraph rewrite`` with a rank, an error or a budget, as its users call it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from tests.cli.conftest import run, run_alone

if TYPE_CHECKING:
    from pathlib import Path

SPEC = "fixtures/unet.py:UNet(width=4)"
GIVEN = ("--input", "1x3x32x32", "--concat-to-sum", "--quiet")
ALONE = """
import sys
for name in ("skipgraph", "scipy", "networkx", "fvcore", "rich"):
    sys.modules[name] = None
import torch
sys.path.insert(0, sys.argv[1])
import model as emitted
net = emitted.load().eval()
torch.save(net(torch.load(sys.argv[2])), sys.argv[3])
net.train()
net(torch.load(sys.argv[2])).square().mean().backward()
"""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inputs") / "inputs.npz"
    np.savez(path, image=np.random.default_rng(0).normal(size=(24, 3, 32, 32)).astype(np.float32))
    return path


def test_a_budget_ends_in_a_model_that_stands_alone(inputs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run_alone("rewrite", SPEC, *GIVEN, "--budget", "flops=-20%", "--calibrate", inputs, "--json", "-o", out)
    assert (done.code, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert report["after"]["flops"] <= 0.8 * report["before"]["flops"]
    factors = report["factors"]
    assert factors["method"] == "compensated"
    assert factors["gap"] <= 1e-3
    assert factors["predicted_error"] > 0
    assert factors["measured_error"] > 0
    assert sum(one["flops"] for one in factors["layers"]) == report["after"]["flops"] - report["before"]["flops"]
    text = (out / "report.md").read_text()
    for layer in factors["layers"]:
        assert layer["path"] in text
        assert f"{layer['path']}: rank {layer['rank']}" in (out / "model.py").read_text()
    images = torch.from_numpy(np.load(inputs)["image"])
    torch.save(images, tmp_path / "given.pt")
    command = [sys.executable, "-c", ALONE, out, tmp_path / "given.pt", tmp_path / "made.pt"]
    alone = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert alone.returncode == 0, alone.stderr
    found = json.loads(run("inspect", out / "model.py", "--json").stdout)
    assert found["totals"]["flops"] == report["after"]["flops"]
    assert found["model"]["parameters"] == report["after"]["parameters"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--budget", "flops=-99%"), 6, "the best that can be is"),
        (("--calibrate", "{inputs}"), 2, "are about lower ranks"),
        (("--rank", "0.25", "--calibrate", "nowhere.npz"), 2, "nowhere.npz cannot be read"),
        (("--rank", "0.25", "--calibrate", "{nan}"), 2, "NaN"),
    ],
)
def test_what_is_refused(arguments: tuple[str, ...], code: int, words: str, inputs: Path, tmp_path: Path) -> None:
    nan = tmp_path / "nan.npz"
    np.savez(nan, image=np.full((4, 3, 32, 32), np.nan, dtype=np.float32))
    given = [one.format(inputs=inputs, nan=nan) for one in arguments]
    done = run("rewrite", SPEC, *GIVEN, *given, "-o", tmp_path / "out")
    assert done.code == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["nan.npz"]
