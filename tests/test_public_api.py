from __future__ import annotations

import subprocess
import sys

import pytest

import skipgraph


@pytest.mark.parametrize("name", skipgraph.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(skipgraph, name)
    assert name in dir(skipgraph)
    assert isinstance(value, str) or value.__doc__


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        skipgraph.nothing  # noqa: B018


def test_import_is_free() -> None:
    code = "import sys, skipgraph; print(sorted({'torch', 'networkx'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"
