"""``skipgraph scan``: what goes where, how it ends, and how it goes on."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from skipgraph_cli.commands.scan import _bytes
from skipgraph_cli.main import app
from tests.cli.conftest import COMMAND, NET
from tests.scan.conftest import shared, warm  # noqa: F401

UNET = str(Path(__file__).parents[2] / "fixtures" / "unet.py")
VGG = str(Path(__file__).parents[2] / "fixtures" / "vgg.py")
SLOW = "import time\ntime.sleep(0.4)\n" + NET + "\nexample_inputs = (torch.empty(1, 3, 8, 8),)\n"


def inside(*arguments: object, given: str | None = None) -> Result:
    """Run the command in this process, whose children are ready."""
    return CliRunner().invoke(app, ["scan", *map(str, arguments)], input=given, catch_exceptions=False)


@pytest.mark.usefixtures("shared")
def test_table_on_the_terminal() -> None:
    done = inside(UNET, "absent.py", VGG)
    assert done.exit_code == 0
    assert re.search(r"unet.py\s+31\.0 M\s+48\.2 GFLOPs\s+\S+ MiB\s+4\s+0\s+4\s+0\s+4\s+0\s+4\n", done.stdout)
    assert done.stdout.endswith("absent.py no such file: absent.py\n")
    assert done.stderr == "2 priced, 1 failed (see the column reason)\n"


@pytest.mark.usefixtures("shared")
def test_formats_and_sources_of_specs(tmp_path: Path) -> None:
    listing = tmp_path / "models.txt"
    listing.write_text(f"# two models\n{VGG}\n{UNET}\n")
    document = json.loads(inside("--from", listing, "--json").stdout)
    assert [row["spec"] for row in document["rows"]] == [VGG, UNET]
    document = json.loads(inside("-", VGG, "--format", "json", given=listing.read_text()).stdout)
    assert [row["spec"] for row in document["rows"]] == [VGG, UNET]
    target = tmp_path / "table.csv"
    done = inside("--from", listing, "-o", target, "--quiet", "--timings", "--input", "1x3x64x64", "--train")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "")
    head, first, second = target.read_text().splitlines()
    assert head.startswith("spec,status,reason,")
    assert head.endswith(",seconds")
    assert first.startswith(f"{VGG},priced,,meta,0,")
    assert "=1x3x64x64:float32," in second
    assert [path.name for path in tmp_path.iterdir() if "table" in path.name] == ["table.csv"]


@pytest.mark.usefixtures("shared")
def test_strict_and_nothing_priced() -> None:
    assert inside(VGG, "absent.py", "--quiet", "--strict").exit_code == 3
    assert inside(VGG, "--quiet", "--strict").exit_code == 0
    done = inside("absent.py", "--json")
    assert done.exit_code == 3
    assert json.loads(done.stdout)["rows"][0]["status"] == "failed"


@pytest.mark.usefixtures("shared")
def test_names() -> None:
    pytest.importorskip("torchvision")
    done = inside("--zoo", "torchvision", UNET, "--only", "resnet?8", "--only", "*.py", "--list")
    assert (done.exit_code, done.stdout, done.stderr) == (0, f"{UNET}\ntorchvision:resnet18\n", "")


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "no model is named"),
        (("--zoo", "nobody"), 2, "Use one of: hf, timm, torchvision."),
        ((VGG, "--only", "resnet*"), 5, "no model matches 'resnet*'"),
        ((VGG, "--json", "--format", "csv"), 2, "--json and --format csv were both given"),
        ((VGG, "--format", "docx"), 2, "unknown format 'docx'"),
        ((VGG, "-o", "absent/table.csv"), 2, "there is no directory absent"),
        ((VGG, "-o", "table.svg"), 2, "unknown format 'svg'"),
        ((VGG, "--resume"), 2, "--resume needs -o FILE"),
        ((VGG, "--memory-limit", "much"), 2, "the size 'much' cannot be read"),
        ((VGG, "--input", "3y3"), 2, "the input '3y3' cannot be read"),
        ((VGG, "--dtype", "float3"), 2, "unknown dtype 'float3'"),
        ((VGG, "--workers", "2", "--scheduler", "tcp://localhost:1"), 2, "The cluster has workers of its own"),
        (("--from", "absent.txt"), 2, "absent.txt cannot be read"),
    ],
)
def test_refusals(arguments: tuple[str, ...], code: int, words: str) -> None:
    done = inside(*arguments)
    assert (done.exit_code, done.stdout) == (code, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_missing_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    absent = ("distributed", "pyarrow")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in absent else find(name))
    for arguments, extra in ((("-f", "parquet"), "parquet"), (("--scheduler", "tcp://localhost:1"), "cluster")):
        done = inside(VGG, *arguments)
        assert done.exit_code == 7
        assert f"skipgraph[{extra}]" in done.stderr


def test_a_scan_that_never_began_leaves_nothing_behind(tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    done = inside(VGG, "-o", tmp_path / "table.csv", "--scheduler", "nonsense")
    assert done.exit_code == 2
    assert "no scheduler answers at nonsense" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("shared")
def test_nothing_is_overwritten(tmp_path: Path) -> None:
    target, journal = tmp_path / "table.csv", tmp_path / "table.csv.journal"
    target.write_text("mine")
    done = inside(VGG, "-o", target)
    assert done.exit_code == 2
    assert "Give --force to replace it" in done.stderr
    assert target.read_text() == "mine"
    target.unlink()
    journal.write_text("rows\n")
    done = inside(VGG, "-o", target)
    assert done.exit_code == 2
    assert "Give --resume to go on with it, or --force to begin anew" in done.stderr
    assert journal.read_text() == "rows\n"
    assert inside(VGG, "-o", target, "--force").exit_code == 0
    assert target.read_text().count(",priced,") == 1
    assert not journal.exists()


def test_interrupted_and_killed_and_gone_on_with(
    tmp_path: Path,
    shared: Any,  # noqa: F811
) -> None:
    specs = []
    for number in range(8):
        path = tmp_path / f"model{number}.py"
        path.write_text(SLOW if number != 3 else "import os; os._exit(5)")
        specs.append(str(path))
    target, journal = tmp_path / "table.csv", tmp_path / "table.csv.journal"
    command = [*COMMAND, "scan", *specs, "--workers", "1", "-o", str(target)]

    done = ended_by(signal.SIGINT, command, journal, rows=2)
    known = len(journal.read_text().splitlines())
    assert done.returncode == 130
    assert done.stderr == f"{known} of 8 models are in {journal}; go on with --resume\ninterrupted\n"
    assert not target.exists()

    done = ended_by(signal.SIGKILL, [*command, "--resume"], journal, rows=known + 2)
    assert done.returncode == -signal.SIGKILL
    with journal.open("a") as file:
        file.write('{"key": "half of a l')

    again = subprocess.run([*command, "--resume"], capture_output=True, text=True, timeout=120, check=False)
    assert (again.returncode, again.stdout) == (0, "")
    assert again.stderr == "7 priced, 1 failed (see the column reason)\n"
    assert not journal.exists()
    assert inside(*specs, "-f", "csv").stdout == target.read_text()


def ended_by(
    number: signal.Signals, command: list[str], journal: Path, *, rows: int
) -> subprocess.CompletedProcess[str]:
    """Run a command until so many rows are known, and send it a signal."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if journal.exists() and len([line for line in journal.read_text().splitlines() if line]) >= rows:
            break
        time.sleep(0.02)
    os.kill(process.pid, number)
    out, err = process.communicate(timeout=60)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


@pytest.mark.parametrize(
    ("text", "size"),
    [("4GB", 4_000_000_000), ("512MiB", 2**29), ("1.5g", 1_500_000_000), ("64 kB", 64_000), ("1024", 1024), ("0", 0)],
)
def test_sizes(text: str, size: int) -> None:
    assert _bytes(text) == size


def test_help() -> None:
    done = inside("--help")
    assert done.exit_code == 0
    assert set(re.findall(r"--[a-z-]+", done.stdout)) >= {
        *("--zoo", "--from", "--only", "--skip", "--list", "--format", "--json", "--output", "--force", "--resume"),
        *("--input", "--dtype", "--train", "--seed", "--workers", "--time-limit", "--memory-limit", "--scheduler"),
        *("--timings", "--strict", "--quiet"),
    }
    assert "Examples:\n    skipgraph scan timm:resnet50" in done.stdout
    assert "The exit code is 0" in done.stdout
