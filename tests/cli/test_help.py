from __future__ import annotations

import re
import sys
import time

import pytest

from skipgraph import __version__
from tests.cli.conftest import run, run_alone


def test_version() -> None:
    done = run("--version")
    assert (done.code, done.stdout) == (0, f"skipgraph {__version__}\n")


@pytest.mark.parametrize("arguments", [("--help",), ("inspect", "--help"), ("inspect", "-h")])
def test_help_shows_every_option(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.code == 0
    assert "inspect" in done.stdout
    if len(arguments) > 1:
        options = set(re.findall(r"--[a-z-]+", done.stdout))
        assert options >= {
            *("--input", "--format", "--output", "--depth", "--unfold", "--what-if", "--train", "--weights"),
            *("--pretrained", "--device", "--dtype", "--seed", "--quiet", "--json", "--force"),
        }
        assert "Examples:\n    skipgraph inspect path/model.py\n" in done.stdout


def test_help_imports_nothing_heavy() -> None:
    done = run_alone("--help", command=(sys.executable, "-X", "importtime", "-m", "skipgraph_cli.main"))
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "typer" in imported
    assert imported.isdisjoint({"torch", "networkx", "numpy", "rich.console", "graphviz", "skipgraph.report"})


def test_help_is_instant() -> None:
    def seconds() -> float:
        start = time.perf_counter()
        run("--help")
        return time.perf_counter() - start

    assert min(seconds() for _ in range(5)) < 0.3


@pytest.mark.parametrize("arguments", [("inspect",), ("no-such-command",), ("inspect", "x.py", "--no-such-option")])
def test_wrong_usage(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.code == 2
    assert "Usage:" in done.stderr
    assert "Traceback" not in done.stderr
