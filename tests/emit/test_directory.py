"""Directories are written whole or not at all, and only emitted ones are ever replaced."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from skipgraph.emit import write_directory
from skipgraph.errors import OutputError

FILES: dict[str, str | bytes] = {"model.py": "new\n", "weights.safetensors": b"\0\1", "plan.json": "{}"}


def content(path: Path) -> dict[str, bytes]:
    return {one.name: one.read_bytes() for one in path.iterdir()}


NEW = {"model.py": b"new\n", "weights.safetensors": b"\0\1", "plan.json": b"{}"}
OLD = {"model.py": b"old\n", "plan.json": b"[]", "notes.txt": b"kept with the rest"}


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "out"
    path.mkdir()
    for name, text in OLD.items():
        (path / name).write_bytes(text)
    return path


def test_a_new_directory(tmp_path: Path) -> None:
    write_directory(tmp_path / "out", FILES)
    assert content(tmp_path / "out") == NEW
    assert [one.name for one in tmp_path.iterdir()] == ["out"]


def test_an_emitted_one_is_replaced_only_by_force(old: Path) -> None:
    with pytest.raises(OutputError, match="exists"):
        write_directory(old, FILES)
    assert content(old) == OLD
    write_directory(old, FILES, force=True)
    assert content(old) == NEW
    assert [one.name for one in old.parent.iterdir()] == ["out"]


def test_another_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.mkdir()
    (path / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match="holds something else"):
        write_directory(path, FILES, force=True)
    assert content(path) == {"thesis.tex": b"years of work"}
    with pytest.raises(OutputError, match="is a file"):
        write_directory(path / "thesis.tex", FILES, force=True)


def test_a_missing_parent(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="there is no directory"):
        write_directory(tmp_path / "no" / "out", FILES)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("step", ["write_bytes", "first rename", "second rename"])
def test_whatever_happens_the_old_one_stays(
    old: Path, error: BaseException, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, rename = Path.write_bytes, Path.rename
    renamed: list[Path] = []

    def failing_write(self: Path, data: bytes) -> int:
        if self.name == "weights.safetensors":
            raise error
        return write(self, data)

    def failing_rename(self: Path, target: Path) -> Path:
        renamed.append(self)
        if len(renamed) == 1 and step == "first rename":
            rename(self, target)  # interrupted just after it
            raise error
        if len(renamed) == 2 and step == "second rename":
            raise error
        return rename(self, target)

    if step == "write_bytes":
        monkeypatch.setattr(Path, "write_bytes", failing_write)
    else:
        monkeypatch.setattr(Path, "rename", failing_rename)
    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else OutputError):
        write_directory(old, FILES, force=True)
    monkeypatch.undo()
    assert content(old) == OLD
    assert [one.name for one in old.parent.iterdir()] == ["out"]
