from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest

from skipgraph.errors import OutputError
from skipgraph_cli.output import format_for, write_file, write_standard_output

FORMATS = ("table", "json", "svg", "png")


@pytest.mark.parametrize(
    ("path", "wanted", "expected"),
    [
        (None, None, "table"),
        (None, "json", "json"),
        ("out.svg", None, "svg"),
        ("out.svg", "json", "json"),
        ("out.txt", None, "table"),
        ("out", None, "table"),
    ],
)
def test_format(path: str | None, wanted: str | None, expected: str) -> None:
    assert format_for(Path(path) if path else None, wanted, FORMATS) == expected


@pytest.mark.parametrize(("path", "wanted"), [(None, "docx"), ("out.docx", None)])
def test_unknown_format(path: str | None, wanted: str | None) -> None:
    with pytest.raises(OutputError, match="unknown format 'docx'") as caught:
        format_for(Path(path) if path else None, wanted, FORMATS)
    assert "table, json, svg, png" in caught.value.remedy


def test_whole_file_and_nothing_else(tmp_path: Path) -> None:
    write_file(tmp_path / "a.txt", "ä", force=False)
    write_file(tmp_path / "b.png", b"\x89", force=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "b.png"]
    assert (tmp_path / "a.txt").read_bytes() == "ä".encode()


def test_existing_file_needs_force(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(OutputError, match="exists"):
        write_file(path, "new", force=False)
    assert path.read_text() == "old"
    write_file(path, "new", force=True)
    assert path.read_text() == "new"


def test_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to("real.txt")
    write_file(tmp_path / "link.txt", "new", force=True)
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == "new"


def test_failure_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OutputError, match="No space left"):
        write_file(path, "new", force=True)
    assert [child.name for child in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text() == "old"


def test_devices_are_left_alone() -> None:
    with pytest.raises(OutputError, match="not a regular file"):
        write_file(Path(os.devnull), "text", force=True)


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


def test_binary_is_kept_off_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Terminal(io.BytesIO()))
    with pytest.raises(OutputError, match="binary"):
        write_standard_output(b"\x89PNG")


def test_unprintable_characters_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", Terminal(written, encoding="ascii"))
    write_standard_output("2 × 3")
    sys.stdout.flush()
    assert written.getvalue() == b"2 ? 3\n"
