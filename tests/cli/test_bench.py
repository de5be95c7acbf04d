"""``skipgraph bench``: what goes where, and how it ends. No test looks at a time."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from typer.testing import CliRunner, Result

from skipgraph_cli.main import app
from tests.cli.conftest import run

SIZE = ("--input", "1x3x8x8", "--seconds", "0.01", "--threads", "1")


def inside(*arguments: object) -> Result:
    """Run the command in this process, where PyTorch is imported already."""
    return CliRunner().invoke(app, ["bench", *map(str, arguments)], catch_exceptions=False)


def test_table(write) -> None:
    path = write("print('importing')")
    done = run("bench", path, f"{path}:Net(width=8)", *SIZE)
    assert done.code == 0, done.stderr
    assert f"A {path}\nB {path}:Net(width=8)\n" in done.stdout
    assert re.search(r"B takes [\d.]+ of A's time \([\d.]+–[\d.]+\)\.", done.stdout)
    assert "\x1b" not in done.stdout
    assert set(done.stderr.split()) == {"importing"}  # the profiler's own lines are none of the user's business


def test_json_to_a_file(write, tmp_path: Path) -> None:
    path, target = write(), tmp_path / "bench.json"
    options = ("--train", "--batch", "2", "--dtype", "f64", "--channels-last", "--quiet", "-o", target)
    done = run("bench", path, path, *SIZE, *options)
    assert (done.code, done.stdout, done.stderr) == (0, "", "")
    document = json.loads(target.read_text())
    assert document["schema"] == "skipgraph.bench/1"
    assert document["inputs"] == [{"name": "0", "shape": [2, 3, 8, 8], "dtype": "float64"}]
    assert document["settings"]["training"] is True
    assert document["a"]["name"] == str(path)
    again = inside(path, path, *SIZE, "-o", target)
    assert again.exit_code == 2
    assert "Give --force" in again.stderr


def test_weights_of_each(write, tmp_path: Path) -> None:
    path, target = write(), tmp_path / "net.pt"
    state = {"first.weight": torch.ones(8, 3, 3, 3), "first.bias": torch.ones(8)}
    state |= {"second.weight": torch.ones(8, 8, 3, 3), "second.bias": torch.ones(8)}
    torch.save(state, target)
    done = inside(path, path, *SIZE, "--json", "--weights-b", target)
    assert json.loads(done.stdout)["output_difference"] > 0
    done = inside(path, path, *SIZE, "--json", "--weights-a", target, "--weights-b", target)
    assert json.loads(done.stdout)["output_difference"] == 0


def test_inputs_are_those_of_a(write) -> None:
    first = write("example_inputs = (torch.randn(1, 3, 6, 6),)", name="first.py")
    second = write("example_inputs = (torch.randn(1, 3, 9, 9),)", name="second.py")
    done = inside(first, second, "--seconds", "0.01", "--json")
    assert json.loads(done.stdout)["inputs"][0]["shape"] == [1, 3, 6, 6]
    assert "warning" in done.stderr
    assert "other shapes" in done.stderr


def test_refusals(write) -> None:
    path = write()
    done = inside(path, "absent.py", *SIZE)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "no such file" in done.stderr
    done = inside(path, f"{path}:Net(width=4)", *SIZE)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "the outputs differ in structure" in done.stderr
    done = inside(path, path, *SIZE, "--cuda-graphs")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "a CPU has no CUDA graphs" in done.stderr


def test_a_model_that_raises(write) -> None:
    path = write("class Odd(Net):\n    def forward(self, x): raise ValueError('odd input')")
    done = inside(f"{path}:Net", f"{path}:Odd", *SIZE)
    assert (done.exit_code, done.stdout) == (3, "")
    assert "ValueError: odd input" in done.stderr
    assert "Traceback" not in done.stderr


def test_help() -> None:
    done = inside("--help")
    assert done.exit_code == 0
    options = set(re.findall(r"--[a-z-]+", done.stdout))
    assert options >= {
        *("--input", "--device", "--dtype", "--channels-last", "--compile", "--cuda-graphs", "--batch", "--train"),
        *("--weights-a", "--weights-b", "--seconds", "--threads", "--json", "--output", "--force", "--seed", "--quiet"),
    }
    assert "Examples:\n    skipgraph bench path/model.py out/model.py\n" in done.stdout
