"""Links between pages lead somewhere, pictures are shown, and show what the definitions say."""

from __future__ import annotations

import importlib.util
import re
import sys
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest

import skipgraph
from tests.docs.blocks import PAGES, ROOT

if TYPE_CHECKING:
    from pathlib import Path

LINK = re.compile(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)")
PICTURES = ROOT / "docs" / "pictures"


def anchors(page: Path) -> set[str]:
    """What headings are called in a link, by GitHub's rule."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links(page: Path) -> None:
    for target, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        other = page.parent / target if target else page
        assert other.exists(), target
        if anchor:
            assert anchor in anchors(other), f"{target}#{anchor}"


def test_every_picture_is_shown() -> None:
    shown = {(page.parent / target).resolve() for page in PAGES for target, _ in LINK.findall(page.read_text("utf-8"))}
    assert set(PICTURES.glob("*.svg")) <= shown


@cache
def described() -> dict[str, Any]:
    """The table of docs/pictures/models.py, which is part of no package."""
    spec = importlib.util.spec_from_file_location("docs_pictures_models", PICTURES / "models.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return dict(module.PICTURES)


@pytest.mark.parametrize("name", sorted(described()))
def test_picture_shows_what_it_is_there_for(name: str) -> None:
    picture = described()[name]
    graph = skipgraph.trace(picture.model(), picture.inputs())
    assert (graph.counts.skips, graph.counts.edges) == (picture.skips, picture.edges)
    drawn = (PICTURES / f"{name}.svg").read_text(encoding="utf-8")
    assert picture.title in drawn
    assert f"{graph.counts.skips} skip" in drawn
    for skip in graph.skips:
        assert skip.span == "short" or skip.id in drawn
