"""``skipgraph inspect`` on models that are right: what goes where, in which format."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from skipgraph_cli.main import app
from tests.cli.conftest import run_alone

FIXTURES = Path(__file__).parents[2] / "fixtures"
IMAGE = ("--input", "1x3x8x8")


def inspect(*arguments: object) -> Result:
    """Run the command in this process, where PyTorch is imported already."""
    result = CliRunner().invoke(app, ["inspect", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return result


def totals(*arguments: object) -> dict[str, int]:
    return json.loads(inspect(*arguments, "--json").stdout)["totals"]


def test_fixture_as_its_users_run_it() -> None:
    done = run_alone("inspect", FIXTURES / "unet.py")
    assert done.code == 0, done.stderr
    assert "long" in done.stdout
    assert "\x1b" not in done.stdout  # no colours in a pipe
    assert done.stderr == ""


def test_json_is_all_that_standard_output_holds(write) -> None:
    path = write(
        "print('importing')\nclass Loud(Net):\n    def forward(self, x):\n        print('running')\n"
        "        return super().forward(x)"
    )
    result = inspect(f"{path}:Loud", *IMAGE, "--json")
    document = json.loads(result.stdout)
    assert document["model"]["spec"] == f"{path}:Loud"
    assert document["totals"]["skips"] == 1
    assert "importing" in result.stderr
    assert "running" in result.stderr


def test_format_follows_the_suffix(write, tmp_path: Path) -> None:
    path = write()
    for suffix, start in (
        (".json", b"{"),
        (".dot", b"digraph"),
        (".svg", b"<"),
        (".png", b"\x89PNG"),
        (".pdf", b"%PDF"),
    ):
        target = tmp_path / f"net{suffix}"
        assert inspect(path, *IMAGE, "-o", target).stdout == ""
        assert target.read_bytes().startswith(start)


def test_format_wins_over_the_suffix(write, tmp_path: Path) -> None:
    target = tmp_path / "net.svg"
    inspect(write(), *IMAGE, "-o", target, "--format", "json")
    assert json.loads(target.read_text())["totals"]["skips"] == 1


def test_diagram_without_graphviz_is_its_source(write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skipgraph.report.render", lambda *arguments, **options: "digraph skipgraph {\n}\n")
    result = inspect(write(), *IMAGE, "-o", tmp_path / "net.svg")
    assert (tmp_path / "net.dot").read_text() == "digraph skipgraph {\n}\n"
    assert not (tmp_path / "net.svg").exists()
    assert "net.dot" in result.stderr


def test_options_reach_the_model(write, tmp_path: Path) -> None:
    path = write()
    assert totals(f"{path}:Net(width=4)", *IMAGE)["flops"] < totals(path, *IMAGE)["flops"]
    assert totals(path, "--input", "2x3x8x8")["flops"] == 2 * totals(path, *IMAGE)["flops"]
    half = totals(path, *IMAGE, "--dtype", "bf16")["activation_bytes"]
    assert 2 * half == totals(path, *IMAGE)["activation_bytes"]
    assert totals(path, *IMAGE, "--device", "cpu") == totals(path, *IMAGE)


def test_own_weights_are_named(write, tmp_path: Path) -> None:
    path = write()
    torch.manual_seed(0)
    state = {
        "first.weight": torch.zeros(8, 3, 3, 3),
        "first.bias": torch.zeros(8),
        "second.weight": torch.zeros(8, 8, 3, 3),
        "second.bias": torch.zeros(8),
    }
    torch.save(state, tmp_path / "net.pt")
    result = inspect(path, *IMAGE, "--weights", tmp_path / "net.pt", "--json")
    assert json.loads(result.stdout)["model"]["weights"] == "file"


def test_train_says_what_is_kept(write) -> None:
    assert totals(write(), *IMAGE, "--train")["saved_bytes"] > 0


def test_notes_are_warnings_unless_quiet(write) -> None:
    path = write(
        "class Rates(Net):\n    def __init__(self):\n        super().__init__()\n"
        "        self.rate = torch.ones(1).item()"
    )
    assert "warning: the model was built on the CPU" in inspect(f"{path}:Rates", *IMAGE).stderr
    assert inspect(f"{path}:Rates", *IMAGE, "--quiet").stderr == ""


@pytest.mark.parametrize("times", ["self.times = torch.tensor(2)", "self.register_buffer('times', torch.tensor(2))"])
def test_forward_that_reads_a_constant(write, times: str) -> None:
    path = write(
        f"""
        class Reads(Net):
            def __init__(self):
                super().__init__()
                {times}

            def forward(self, x):
                for _ in range(self.times.item()):
                    x = x + x.relu()
                return x
        """
    )
    assert totals(f"{path}:Reads", *IMAGE)["merges"] == 2


def test_json_and_another_format(write) -> None:
    result = CliRunner().invoke(app, ["inspect", str(write()), "--json", "--format", "svg"])
    assert result.exit_code == 2
    assert "both given" in result.stderr


def test_exported_program(tmp_path: Path) -> None:
    path = tmp_path / "net.pt2"
    torch.export.save(torch.export.export(torch.nn.Sequential(torch.nn.Linear(4, 4)), (torch.zeros(2, 4),)), path)
    assert totals(path)["flops"] == 2 * 4 * 4
    assert "stays in the mode" in inspect(path, "--train").stderr


@pytest.mark.parametrize("spec", ["timm:resnet18", "torchvision:resnet18"])
def test_models_of_libraries(spec: str) -> None:
    assert totals(spec)["skips"] == 8
