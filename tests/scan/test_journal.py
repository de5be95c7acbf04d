"""What a scan that ended too early leaves behind, and what may be taken from it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from skipgraph.errors import OutputError
from skipgraph.scan import Journal, Limits, Settings, journal
from skipgraph.scan.pricing import Job

JOB = Job("timm:resnet18", Settings(), Limits(), "a scan", (), str(Path.cwd()))
ROW = {"spec": "timm:resnet18", "status": "priced", "flops": 3, "reason": None, "inputs": "×"}


def test_rows_come_back(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    other = replace(JOB, spec="timm:vgg11")
    with Journal(path) as first:
        assert first.row(JOB) is None
        first.add(JOB, ROW)
        assert path.read_text().count("\n") == 1  # it is there before the scan ends, however that comes about
    with Journal(path, resume=True) as second:
        assert second.row(JOB) == ROW
        assert second.row(replace(JOB, scan="another", prefixes=("timm",))) == ROW
        assert second.row(other) is None
        second.add(other, ROW)
    with Journal(path, resume=True) as third:
        assert third.row(JOB) == third.row(other) == ROW
        third.remove()
    assert not path.exists()
    with Journal(path, resume=True) as fourth:  # nothing to go on with is no error: the same command begins
        assert fourth.row(JOB) is None


def test_without_resume_it_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with Journal(path) as first:
        first.add(JOB, ROW)
    with Journal(path) as second:
        assert second.row(JOB) is None
    assert not path.exists()  # a scan that ends before its first row leaves nothing to go on with


@pytest.mark.parametrize("end", ['{"key": "ab', '{"key": "\xff', "[1, 2]\n", '{"key": 3}\n', "null\n", "\0\0\0\0"])
def test_what_cannot_be_read_is_left_out(tmp_path: Path, end: str) -> None:
    path = tmp_path / "journal"
    other = replace(JOB, spec="timm:vgg11")
    with Journal(path) as first:
        first.add(JOB, ROW)
    with path.open("a", encoding="latin-1") as file:
        file.write(end)
    with Journal(path, resume=True) as second:
        assert second.row(JOB) == ROW
        second.add(other, ROW)
    with Journal(path, resume=True) as third:
        assert third.row(JOB) == third.row(other) == ROW


@pytest.mark.parametrize(
    "other",
    [
        replace(JOB, settings=Settings(train=True)),
        replace(JOB, settings=Settings(inputs=("1x3x8x8",))),
        replace(JOB, settings=Settings(dtype="bf16")),
        replace(JOB, settings=Settings(seed=1)),
        replace(JOB, limits=Limits(seconds=1)),
        replace(JOB, limits=Limits(memory_bytes=None)),
    ],
)
def test_options_matter(other: Job) -> None:
    assert journal.key(other) != journal.key(JOB)


def test_files_matter(tmp_path: Path) -> None:
    path = tmp_path / "model.py"
    path.write_text("one")
    (tmp_path / "directory").mkdir()
    jobs = [
        replace(JOB, spec=spec, directory=str(tmp_path))
        for spec in ("model.py", f"{path}:Net(width=3)", "hf:model.py", "hf:directory")
    ]
    before = [journal.key(job) for job in jobs]
    assert before == [journal.key(job) for job in jobs]
    path.write_text("another")
    (tmp_path / "directory" / "config.json").write_text("{}")
    after = [journal.key(job) for job in jobs]
    assert all(old != new for old, new in zip(before, after, strict=True))


def test_packages_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    before = journal.key(JOB)
    assert any(one.startswith("torch==") for one in journal._environment())
    monkeypatch.setattr(journal, "_environment", lambda: ["torch==99"])
    assert journal.key(JOB) != before


def test_nowhere_to_write(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        Journal(tmp_path / "absent" / "journal")
    with Journal(None) as nothing:
        nothing.add(JOB, ROW)
        nothing.remove()
        assert nothing.row(JOB) is None


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
def test_no_room() -> None:
    with Journal(Path(os.devnull).with_name("full")) as full, pytest.raises(OutputError, match="No space left"):
        full.add(JOB, ROW)
