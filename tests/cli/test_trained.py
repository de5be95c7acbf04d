"""A trained U-Net, from its training script to an emitted model of fewer multiply-adds, and back."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from tests.cli.conftest import run

SCRIPT = Path(__file__).parents[2] / "fixtures" / "training" / "denoiser.py"
SPEC = "fixtures/unet.py:UNet(width=4, levels=3, classes=3)"
ALONE = """
import sys
for name in ("skipgraph", "scipy", "networkx", "fvcore", "rich"):
    sys.modules[name] = None
import numpy, torch
sys.path.insert(0, sys.argv[1])
import model as emitted
given = torch.from_numpy(numpy.load(sys.argv[2])["noisy"])
with torch.no_grad():
    torch.save(emitted.load().eval()(given), sys.argv[3])
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    command = [sys.executable, SCRIPT, folder, "--width", "4", "--steps", "150"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def rewritten(trained: Path) -> tuple[Path, dict[str, object]]:
    out = trained / "out"
    given = ("--input", "1x3x48x48", "--weights", trained / "weights.safetensors")
    budget = ("--concat-to-sum", "--budget", "flops=-30%", "--calibrate", trained / "inputs.npz")
    done = run("rewrite", SPEC, *given, *budget, "--json", "--quiet", "-o", out)
    assert (done.code, done.stderr) == (0, "")
    return out, json.loads(done.stdout)


def outputs(directory: Path, trained: Path) -> torch.Tensor:
    """What an emitted model makes of the test patches, where nothing but torch can be imported."""
    command = [sys.executable, "-c", ALONE, directory, trained / "test.npz", trained / "made.pt"]
    alone = subprocess.run(command, cwd=trained, capture_output=True, text=True, timeout=120, check=False)
    assert alone.returncode == 0, alone.stderr
    return torch.load(trained / "made.pt")


def original_outputs(trained: Path) -> torch.Tensor:
    namespace: dict[str, object] = {"__name__": "unet"}
    exec(compile((SCRIPT.parents[1] / "unet.py").read_text(), "unet.py", "exec"), namespace)
    model: torch.nn.Module = namespace["UNet"](width=4, levels=3, classes=3)  # type: ignore[operator]
    model.load_state_dict(safetensors.torch.load_file(trained / "weights.safetensors"))
    with torch.no_grad():
        return model.eval()(torch.from_numpy(np.load(trained / "test.npz")["noisy"]))


def test_the_report_says_what_was_predicted_and_what_was_measured(
    trained: Path, rewritten: tuple[Path, dict[str, object]]
) -> None:
    out, report = rewritten
    assert report["after"]["flops"] <= 0.7 * report["before"]["flops"]  # type: ignore[index]
    factors = report["factors"]
    theirs, ours = original_outputs(trained), outputs(out, trained)
    unseen = ((ours - theirs).square().sum() / (theirs - theirs.mean((0, 2, 3), keepdim=True)).square().sum()).sqrt()
    assert factors["measured_error"] == pytest.approx(float(unseen), rel=0.5)  # type: ignore[index]
    assert factors["predicted_error"] == pytest.approx(factors["measured_error"], rel=1.0)  # type: ignore[index]
    text = (out / "report.md").read_text()
    assert "predicted" in text
    assert "measured" in text


def test_it_still_takes_noise_off(trained: Path, rewritten: tuple[Path, dict[str, object]]) -> None:
    found = np.load(trained / "test.npz")
    given, clean = (torch.from_numpy(found[name]) for name in ("noisy", "clean"))

    def error(noise: torch.Tensor) -> float:
        return float((given - noise * 25 / 255 - clean).square().mean())

    whole, thin = error(original_outputs(trained)), error(outputs(rewritten[0], trained))
    assert whole < 0.6 * error(torch.zeros_like(given))  # training has come to something
    assert thin < 1.5 * whole


def test_the_original_comes_back_from_the_plan_and_its_weights(
    trained: Path, rewritten: tuple[Path, dict[str, object]]
) -> None:
    given = ("--original-weights", trained / "weights.safetensors", "--quiet")
    done = run("undo", rewritten[0], *given, "-o", trained / "back")
    assert (done.code, done.stderr) == (0, "")
    torch.testing.assert_close(outputs(trained / "back", trained), original_outputs(trained))
    ours = safetensors.torch.load_file(trained / "back" / "weights.safetensors")
    theirs = safetensors.torch.load_file(trained / "weights.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_sums_become_concats_of_what_is_projected(trained: Path, rewritten: tuple[Path, dict[str, object]]) -> None:
    done = run("undo", rewritten[0], "--projected", "--quiet", "-o", trained / "joined")
    assert (done.code, done.stderr) == (0, "")
    torch.testing.assert_close(
        outputs(trained / "joined", trained), outputs(rewritten[0], trained), rtol=1e-4, atol=1e-5
    )
    both = run("undo", rewritten[0], "--projected", "--original-weights", "x", "-o", trained / "neither")
    assert both.code == 2
    assert "two ways back" in both.stderr
