"""What ``skipgraph rewrite`` and ``apply`` write, for a U-Net and a U-ViT: complete, repeatable, chosen, exported."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.cli.conftest import run, run_alone
from tests.helpers import fixtures

if TYPE_CHECKING:
    from pathlib import Path

SEPARATE = ("--concat-to-sum", "--execution", "separate")
COUNTS = ("flops", "merges", "skips", "add", "concat", "gated", "short", "long")
ALONE = """
import sys
for name in ("skipgraph", "skipgraph_cli", "timm", "torchvision", "networkx", "fvcore", "rich", "typer", "onnx"):
    sys.modules[name] = None
import torch
sys.path.insert(0, sys.argv[1])
import model as emitted
inputs, wanted = torch.load(sys.argv[2])
torch.manual_seed(0)
built = emitted.build()
net = emitted.load().eval()
assert [name for name, _ in built.named_parameters()] == [name for name, _ in net.named_parameters()]
with torch.no_grad():
    torch.testing.assert_close(net(*inputs), wanted, rtol=1e-4, atol=1e-5)
net.train()
optimiser = torch.optim.SGD(net.parameters(), lr=0.01)
losses = []
for _ in range(3):
    optimiser.zero_grad()
    loss = net(*inputs).square().mean()
    loss.backward()
    assert all(parameter.grad is not None for parameter in net.parameters())
    optimiser.step()
    losses.append(loss.item())
assert losses[2] < losses[0], losses
"""


@dataclass
class Case:
    """A model, as the command line and as Python know it, and its rewritten directory."""

    spec: str
    options: tuple[object, ...]
    model: nn.Module
    inputs: tuple[Tensor, ...]
    out: Path


def _case(name: str, folder: Path) -> Case:
    torch.manual_seed(7)
    fixture = fixtures.load(name)
    width = {"width": 8} if name == "unet" else {}
    model = fixture.model_class(**width).eval()
    shapes = ["2x3x32x32"] if name == "unet" else ["2x3x32x32", "2"]
    inputs = tuple(torch.rand(*map(int, shape.split("x"))) for shape in shapes)
    save_file(model.state_dict(), folder / "weights.safetensors")
    spec = "fixtures/unet.py:UNet(width=8)" if name == "unet" else f"fixtures/{name}.py"
    asked = [word for shape in shapes for word in ("--input", shape)]
    case = Case(spec, (*asked, "--weights", folder / "weights.safetensors", *SEPARATE), model, inputs, folder / "out")
    done = run("rewrite", spec, *case.options, "--onnx", "--pt2", "--json", "--quiet", "-o", case.out)
    assert (done.code, done.stderr) == (0, "")
    report = json.loads(done.stdout)  # JSON, and nothing else
    assert report == {key: value for key, value in read(case.out / "report.json").items() if key != "skipgraph"}
    return case


@pytest.fixture(scope="module")
def unet(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return _case("unet", tmp_path_factory.mktemp("unet"))


@pytest.fixture(scope="module")
def uvit(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return _case("uvit", tmp_path_factory.mktemp("uvit"))


@pytest.fixture(params=["unet", "uvit"])
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.getfixturevalue(request.param)
    return found


def read(path: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(path.read_text())
    return data


def content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


# -- what is written ---------------------------------------------------------------------------------------------------


def test_it_runs_and_trains_with_torch_and_safetensors_alone(case: Case, tmp_path: Path) -> None:
    assert set(content(case.out)) == {
        *("model.py", "weights.safetensors", "plan.json", "report.json", "report.md", "model.onnx", "model.pt2"),
    }
    with torch.no_grad():
        torch.save((case.inputs, case.model(*case.inputs)), tmp_path / "expected.pt")
    done = subprocess.run(
        [sys.executable, "-c", ALONE, case.out, tmp_path / "expected.pt"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_inspect_finds_what_the_dry_run_said(unet: Case, tmp_path: Path) -> None:
    done = run("rewrite", unet.spec, *unet.options, "--dry-run", "--json", "-o", tmp_path / "out")
    assert (done.code, done.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == []
    dry = json.loads(done.stdout)
    assert dry["summary"] == "not verified"
    report = read(unet.out / "report.json")
    for same in ("before", "control", "after", "merges"):
        assert dry[same] == report[same], same
    found = json.loads(run("inspect", unet.out / "model.py", "--json").stdout)
    after = dry["after"]
    assert {name: found["totals"][name] for name in COUNTS} == {name: after[name] for name in COUNTS}
    assert found["model"]["parameters"] == after["parameters"] == sum(p.numel() for p in unet.model.parameters())
    assert found["totals"]["peak_bytes"] == pytest.approx(after["peak_bytes"], rel=0.02)
    assert after["concat"] == 0
    assert after["add"] == dry["before"]["add"] + dry["before"]["concat"]


def test_every_file_has_the_same_bytes_whatever_the_hash_seed(unet: Case, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONHASHSEED": "23"}
    done = run_alone("rewrite", unet.spec, *unet.options, "--quiet", "-o", tmp_path / "out", env=environment)
    assert done.code == 0, done.stderr
    again = content(tmp_path / "out")
    assert again == {name: data for name, data in content(unet.out).items() if name in again}


def test_inputs_drawn_at_import_are_the_same_in_every_run(tmp_path: Path) -> None:
    for seed in ("1", "23"):
        environment = os.environ | {"PYTHONHASHSEED": seed}
        done = run_alone("rewrite", "fixtures/densenet.py", "--concat-to-sum", "-o", tmp_path / seed, env=environment)
        assert done.code == 0, done.stderr
    one, other = content(tmp_path / "1"), content(tmp_path / "23")
    assert [name for name in one if one[name] != other[name]] == []


def test_sums_become_concats(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run(
        "rewrite", "fixtures/uvit.py", "--sum-to-concat", "--allow-identity", "--only", "blocks_in.0.*", "--json",
        "-q", "-o", out,
    )  # fmt: skip
    assert (done.code, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    rewritten = [one["id"] for one in report["merges"] if one["status"] == "rewritten"]
    assert rewritten
    assert all(name.startswith("blocks_in.0") for name in rewritten)
    assert report["after"]["add"] == report["before"]["add"] - len(rewritten)
    found = json.loads(run("inspect", out / "model.py", "--json").stdout)
    assert {name: found["totals"][name] for name in COUNTS} == {name: report["after"][name] for name in COUNTS}


# -- what is chosen ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patterns", "chosen"),
    [
        (("--only", "decoder.2.cat:0"), {2}),
        (("--only", "decoder", "--skip", "decoder.?.cat:0", "--skip", "*"), None),
        (("--only", "decoder.*", "--skip", "decoder.[12]"), {0, 3}),
    ],
)
def test_patterns_choose(unet: Case, patterns: tuple[str, ...], chosen: set[int] | None) -> None:
    done = run("rewrite", unet.spec, *unet.options, *patterns, "--dry-run", "--json")
    assert done.code == 0, done.stderr
    rewritten = {one["id"] for one in json.loads(done.stdout)["merges"] if one["status"] == "rewritten"}
    assert rewritten == {f"decoder.{level}.cat" for level in chosen or ()}


def test_what_is_not_chosen_stays(unet: Case, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run("rewrite", unet.spec, *unet.options, "--only", "decoder.1", "--quiet", "-o", out)
    assert (done.code, done.stderr) == (0, "")
    old, new = unet.model.state_dict(), load_file(out / "weights.safetensors")
    assert all(name.startswith("decoder.1.conv.0.") for name in old.keys() ^ new.keys())
    assert old.keys() - new.keys() == {"decoder.1.conv.0.weight"}
    assert all(torch.equal(old[name], new[name]) for name in old.keys() & new.keys())
    excluded = {one["id"] for one in read(out / "report.json")["merges"] if one["status"] == "excluded"}
    assert excluded == {"decoder.0.cat", "decoder.2.cat", "decoder.3.cat"}


# -- exported forms ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_exported_forms_compute_the_same(case: Case, batch: int) -> None:
    inputs = tuple(torch.rand(batch, *one.shape[1:]) for one in case.inputs)
    with torch.no_grad():
        wanted = case.model(*inputs)
        program = torch.export.load(case.out / "model.pt2").module()
        torch.testing.assert_close(program(*inputs), wanted, rtol=1e-4, atol=1e-5)
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(case.out / "model.onnx", providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    assert names == ["image", "time"][: len(case.inputs)]
    (given,) = session.run(None, {name: one.numpy() for name, one in zip(names, inputs, strict=True)})
    torch.testing.assert_close(torch.as_tensor(given), wanted, rtol=1e-3, atol=1e-4)


# -- other weights -----------------------------------------------------------------------------------------------------


def test_apply_is_the_rewrite_of_other_weights(unet: Case, tmp_path: Path) -> None:
    other = copy.deepcopy(unet.model)
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for tensor in other.parameters():
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)
    save_file(other.state_dict(), tmp_path / "other.safetensors")
    shapes = unet.options[: unet.options.index("--weights")]
    given = ("--weights", tmp_path / "other.safetensors", *shapes, "--quiet")
    applied = run("apply", unet.out / "plan.json", unet.spec, *given, "--json", "-o", tmp_path / "applied")
    assert (applied.code, applied.stderr) == (0, "")
    json.loads(applied.stdout)
    assert run("rewrite", unet.spec, *SEPARATE, *given, "-o", tmp_path / "rewritten").code == 0
    one, other_one = content(tmp_path / "applied"), content(tmp_path / "rewritten")
    assert [name for name in one if one[name] != other_one[name]] == []
    assert one["model.py"] == content(unet.out)["model.py"]
    assert one["plan.json"] == content(unet.out)["plan.json"]


@pytest.mark.parametrize("command", ["rewrite", "apply", "undo"])
def test_help_has_examples_and_loads_nothing(command: str) -> None:
    done = run_alone(command, "--help", command=(sys.executable, "-X", "importtime", "-m", "skipgraph_cli.main"))
    assert done.code == 0
    assert f"Examples:\n    skipgraph {command} " in done.stdout
    assert {"--output", "--weights", "--force", "--quiet"} <= set(done.stdout.replace(",", " ").split())
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert imported.isdisjoint({"torch", "networkx", "numpy", "rich.console", "skipgraph.rewriting"})
