"""The documentation's examples run, and print what stands there; ``--update`` writes what they print into the pages."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from skipgraph_cli.main import app
from tests.docs.blocks import PAGES, ROOT, Block, blocks, replace, scripts

SEPARATOR = "<end of block>"
SIZE = re.compile(r"[\d.]+ (?:[KMGT]i)?B\b")


def says_what_it_prints(block: Block) -> bool:
    """Whether a block is one command with its output."""
    lines = block.text.splitlines()
    return len(lines) > 1 and [line.startswith("$ ") for line in lines].count(True) == 1


WITH_SCRIPTS = [page for page in PAGES if scripts(page)]
COMMANDS = [
    pytest.param(page, block, id=f"{page.stem}-{place}")
    for page in PAGES
    for place, block in enumerate(blocks(page))
    if block.language == "console" and says_what_it_prints(block)
]


@pytest.mark.parametrize("page", WITH_SCRIPTS, ids=lambda page: page.stem)
def test_python(page: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    install(page, tmp_path)
    pairs = scripts(page)
    printed = run([block.text for block, _ in pairs], tmp_path)
    if request.config.getoption("--update"):
        replace(page, [(said, text) for (_, said), text in zip(pairs, printed, strict=True) if said is not None])
        return
    for (block, said), text in zip(pairs, printed, strict=True):
        assert text == ("" if said is None else said.text), block.text


def install(page: Path, folder: Path) -> None:
    """Make the files of a page a package that other programs find, with the entry points of its TOML blocks."""
    points: list[str] = []
    for block in blocks(page):
        if block.path is not None:
            target = folder / block.path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(block.text, encoding="utf-8")
        elif block.language == "toml":
            for group, named in tomllib.loads(block.text)["project"]["entry-points"].items():
                points += [f"[{group}]", *(f"{name} = {target}" for name, target in named.items())]
    if points:
        metadata = folder / "examples-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: examples\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text("\n".join(points) + "\n")


def run(sources: list[str], folder: Path) -> list[str]:
    """Run pieces of one script in a process of its own; what each of them prints."""
    script = folder / "script.py"
    script.write_text(f"print({SEPARATOR!r})\n".join([*sources, ""]), encoding="utf-8")
    binaries = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, script], cwd=ROOT, env=environment, text=True, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split(SEPARATOR + "\n")[:-1]


@pytest.mark.parametrize(("page", "block"), COMMANDS)
def test_command(page: Path, block: Block, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    command, *said = block.text.splitlines()
    result = CliRunner().invoke(app, shlex.split(command.removeprefix("$ skipgraph ")))
    assert result.exit_code == 0, result.output
    printed = result.stdout.splitlines()
    if said[-1] == "…":
        printed = [*printed[: len(said) - 1], "…"]
    if request.config.getoption("--update"):
        current = next(other for other in blocks(page) if other.text.splitlines()[0] == command)
        replace(page, [(current, "\n".join([command, *printed]) + "\n")])
        return
    assert comparable(printed) == comparable(said)


def comparable(lines: list[str]) -> list[str]:
    """What is the same on every machine: CPUs differ in what their kernels allocate, so in peaks and who holds them."""
    if "Findings" in lines:
        lines = lines[: lines.index("Findings")]
    plain = [" ".join(SIZE.sub("#", line).replace(" yes ", " ").split()) for line in lines]
    return [line for line in plain if line.strip("─ ")]
