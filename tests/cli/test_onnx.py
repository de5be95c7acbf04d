"""ONNX files on the command line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import onnx
import pytest
import torch

from tests.cli.conftest import run
from tests.helpers import fixtures
from tests.helpers.onnx_files import exported

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def unet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = fixtures.load("unet").model_class(width=4)
    path = tmp_path_factory.mktemp("onnx") / "unet.onnx"
    axes = {"image": {0: "batch"}}
    return exported(model, (torch.zeros(1, 3, 32, 32),), path, dynamo=False, input_names=["image"], dynamic_axes=axes)


def test_inspect(unet: Path) -> None:
    done = run("inspect", unet, "--json")
    assert (done.code, done.stderr) == (0, "")
    data = json.loads(done.stdout)
    fixture = json.loads(run("inspect", "fixtures/unet.py:UNet(width=4)", "--input", "1x3x32x32", "--json").stdout)
    same = ("skips", "concat", "long", "identity", "skip_edges", "merges", "peak_bytes_last_use")
    assert {key: data["totals"][key] for key in same} == {key: fixture["totals"][key] for key in same}
    assert data["model"]["weights"] == "file"
    assert [one["shape"] for one in data["model"]["inputs"]] == [[1, 3, 32, 32]]


def test_rewrite(unet: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run("rewrite", unet, "--concat-to-sum", "--quiet", "--json", "-o", out)
    assert (done.code, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert (report["before"]["concat"], report["after"]["concat"], report["after"]["add"]) == (4, 0, 4)
    assert sorted(path.name for path in out.iterdir()) == ["model.onnx", "plan.json", "report.json", "report.md"]
    assert not any(node.op_type == "Concat" for node in onnx.load(out / "model.onnx").graph.node)
    again = run("inspect", out / "model.onnx", "--json", "--input", "image=2x3x32x32")
    assert json.loads(again.stdout)["totals"]["add"] == 4
    undone = run("undo", out, "-o", tmp_path / "undone")
    assert (undone.code, "is not taken back" in undone.stderr) == (2, True)


def test_a_plan_fits_the_same_file(unet: Path, tmp_path: Path) -> None:
    assert run("rewrite", unet, "--concat-to-sum", "--quiet", "-o", tmp_path / "a").code == 0
    assert run("apply", tmp_path / "a" / "plan.json", unet, "--quiet", "-o", tmp_path / "b").code == 0
    assert (tmp_path / "a" / "model.onnx").read_bytes() == (tmp_path / "b" / "model.onnx").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--input", "1x3x31"), "takes image batchx3x32x32, not 1x3x31"),
        (("--input", "1x1x32x32"), "takes image batchx3x32x32, not 1x1x32x32"),
        (("--input", "other=1x3x32x32"), "takes image batchx3x32x32; given were other"),
        (("--pretrained",), "no pretrained weights but its own"),
        (("--dtype", "f64"), "its own weights and dtypes"),
    ],
)
def test_bad_input(unet: Path, arguments: tuple[str, ...], words: str) -> None:
    done = run("inspect", unet, *arguments)
    assert done.code == 2
    assert words in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_open_sizes_are_asked_for(tmp_path: Path) -> None:
    model = fixtures.load("unet").model_class(width=4)
    axes = {"image": {0: "batch", 2: "height", 3: "width"}}
    path = exported(
        model, (torch.zeros(1, 3, 32, 32),), tmp_path / "open.onnx", dynamo=False, input_names=["image"],
        dynamic_axes=axes,
    )  # fmt: skip
    done = run("inspect", path)
    assert done.code == 2
    assert "--input image=1x3x224x224" in done.stderr
    assert run("inspect", path, "--input", "1x3x64x48", "--quiet").code == 0
