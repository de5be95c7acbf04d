"""``skipgraph rewrite``, ``apply`` and ``undo``: the way back, bad usage, bad input, interruption."""

from __future__ import annotations

import json
import signal
import subprocess
import textwrap
import time
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.cli.conftest import COMMAND, run
from tests.helpers import fixtures

if TYPE_CHECKING:
    from pathlib import Path

FIXTURE = "fixtures/densenet.py"
SEPARATE = ("--concat-to-sum", "--execution", "separate", "--quiet")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of the DenseNet of the fixtures."""
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    save_file(fixtures.load("densenet").model_class().state_dict(), path)
    return path


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> Path:
    """The DenseNet, all its concats rewritten."""
    path = tmp_path_factory.mktemp("rewritten") / "out"
    done = run("rewrite", FIXTURE, "--weights", weights, *SEPARATE, "-o", path)
    assert (done.code, done.stderr) == (0, "")
    return path


def test_undo_gives_the_original_back(out: Path, weights: Path, tmp_path: Path) -> None:
    back = tmp_path / "back"
    done = run("undo", out, "-o", back)
    assert done.code == 0, done.stderr
    original, restored = load_file(weights), load_file(back / "weights.safetensors")
    assert original.keys() == restored.keys()
    assert all(torch.equal(restored[name], tensor) for name, tensor in original.items())
    here, there = (json.loads(run("inspect", spec, "--json").stdout)["totals"] for spec in (FIXTURE, back / "model.py"))
    assert {name: there[name] for name in ("flops", "concat", "add", "skips")} == {
        name: here[name] for name in ("flops", "concat", "add", "skips")
    }


def test_apply_refuses_what_is_not_for_it(out: Path, tmp_path: Path) -> None:
    refused = run("apply", out / "plan.json", "fixtures/unet.py:UNet(width=8)", "-o", tmp_path / "no", "--quiet")
    assert refused.code == 2
    assert "made for another model" in refused.stderr
    assert run("apply", "README.md", FIXTURE, "-o", tmp_path / "no").code == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "say which rewrite"),
        (("--concat-to-sum", "--sum-to-concat", "-o", "x"), 2, "say which rewrite"),
        (("--concat-to-sum",), 2, "no directory to write"),
        (("--concat-to-sum", "--eval-only", "-o", "x"), 2, "about sums"),
        (("--concat-to-sum", "--execution", "quick", "--dry-run"), 2, "unknown execution"),
        (("--concat-to-sum", "--only", "nowhere", "-o", "{new}"), 5, "matches 'nowhere'"),
        (("--concat-to-sum", "--skip", "*", "-o", "{new}"), 5, "nothing to rewrite"),
        (("--concat-to-sum", "-o", "{foreign}"), 2, "exists"),
        (("--concat-to-sum", "--force", "-o", "{foreign}"), 2, "holds something else"),
        (("--concat-to-sum", "-o", "{new}/deeper"), 2, "there is no directory"),
        (("--concat-to-sum", "-o", "{file}"), 2, "is a file"),
    ],
)
def test_bad_usage(arguments: tuple[str, ...], code: int, words: str, tmp_path: Path) -> None:
    foreign, file = tmp_path / "foreign", tmp_path / "file"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("years of work")
    file.write_text("mine")
    given = [one.format(new=tmp_path / "new", foreign=foreign, file=file) for one in arguments]
    done = run("rewrite", FIXTURE, *given)
    assert done.code == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "foreign"]
    assert (foreign / "thesis.tex").read_text() == "years of work"


def test_nothing_to_rewrite(tmp_path: Path) -> None:
    done = run("rewrite", "fixtures/vgg.py", "--concat-to-sum", "-o", tmp_path / "out")
    assert done.code == 5
    assert "nothing to rewrite" in done.stderr


def test_an_emitted_directory_is_replaced_by_force_alone(out: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    assert run("undo", out, "-o", mine).code == 0
    before = (mine / "model.py").read_bytes()
    assert run("undo", out, "-o", mine).code == 2
    assert (mine / "model.py").read_bytes() == before
    assert run("undo", out, "-o", mine, "--force").code == 0


def test_weights_that_are_no_numbers(weights: Path, tmp_path: Path) -> None:
    state = load_file(weights)
    name = next(name for name in state if name.endswith(("conv1.weight", "0.weight")))
    state[name].view(-1)[0] = float("nan")
    save_file(state, tmp_path / "nan.safetensors")
    done = run("rewrite", FIXTURE, "--weights", tmp_path / "nan.safetensors", *SEPARATE, "-o", tmp_path / "out")
    assert done.code == 2
    assert name in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_forward_that_draws_numbers(tmp_path: Path) -> None:
    model = tmp_path / "noisy.py"
    model.write_text(
        textwrap.dedent("""
        import torch
        from torch import nn

        class Noisy(nn.Module):
            def __init__(self):
                super().__init__()
                self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(11, 4, 1)

            def forward(self, x):
                return self.b(torch.cat([x, self.a(x + 0.1 * torch.randn_like(x)).relu()], 1))
        """)
    )
    done = run("rewrite", model, "--input", "1x3x8x8", *SEPARATE, "-o", tmp_path / "out")
    assert done.code in (0, 4)
    assert "Traceback" not in done.stderr


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    command = " ".join([*COMMAND, "rewrite", FIXTURE, *SEPARATE, "-o", str(tmp_path / "out")])
    done = subprocess.run(["bash", "-c", f"ulimit -f 16; {command}"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert "cannot be written" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, "rewrite", FIXTURE, *SEPARATE, "-o", str(tmp_path / "out")],
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    time.sleep(3)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    # Python kills itself by the signal, after our last word, where it struck inside an exec of source text.
    assert process.returncode in (130, -signal.SIGINT), said
    assert "interrupted" in said
    assert list(tmp_path.iterdir()) == []
