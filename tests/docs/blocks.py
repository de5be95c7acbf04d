"""The fenced blocks of a Markdown file, and what is to be done with them.

- ``python``: run in order, all blocks of a file in one process; a ``text`` block right behind is what it prints.
- ``python`` that starts with a comment which is a path, and ``toml``: files of a package that is installed for the
  other blocks of the file.
- ``console``: ``$ skipgraph …`` on the first line, behind it what that prints, up to a line ``…`` if there is one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

_FENCED = re.compile(r"^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_PATH = re.compile(r"# (\S+\.py)\n")


@dataclass(frozen=True)
class Block:
    """One fenced block; ``start`` and ``end`` enclose its text in the page."""

    language: str
    text: str
    start: int
    end: int

    @property
    def path(self) -> str | None:
        """Where this block is to be written, if it is a file."""
        match = _PATH.match(self.text)
        return match.group(1) if match and self.language == "python" else None


def blocks(page: Path) -> list[Block]:
    """All fenced blocks that name a language."""
    text = page.read_text(encoding="utf-8")
    return [Block(m["language"], m["text"], m.start("text"), m.end("text")) for m in _FENCED.finditer(text)]


def scripts(page: Path) -> list[tuple[Block, Block | None]]:
    """The Python blocks to run, each with the block that says what it prints."""
    text = page.read_text(encoding="utf-8")
    found = blocks(page)
    pairs = []
    for block, following in zip(found, [*found[1:], None], strict=False):
        if block.language == "python" and block.path is None:
            behind = (
                following is not None
                and following.language == "text"
                and not text[block.end + 3 : following.start - 8].strip()
            )
            pairs.append((block, following if behind else None))
    return pairs


def replace(page: Path, changes: list[tuple[Block, str]]) -> None:
    """Give blocks other texts."""
    text = page.read_text(encoding="utf-8")
    for block, new in sorted(changes, key=lambda change: change[0].start, reverse=True):
        text = text[: block.start] + new + text[block.end :]
    page.write_text(text, encoding="utf-8")
