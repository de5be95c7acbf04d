"""A directory that is written whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from skipgraph.errors import OutputError

# What an emitted directory has, so that no other is ever replaced.
_OURS = (("model.py", "plan.json"), ("model.onnx", "plan.json"))


def check_directory(path: Path, *, force: bool) -> None:
    """Refuse, before any work is done, a directory that will not be written.

    Raises
    ------
    OutputError
        If it exists and is not empty, and ``force`` is not given or it was not emitted; or its parent is missing or
        closed.
    """
    if path.exists() and not path.is_dir():
        raise OutputError(f"{path} is a file", "Name a directory.")
    if path.is_dir() and any(path.iterdir()):
        if not force:
            raise OutputError(f"{path} exists", "Give --force to replace it, or another name.")
        if not any(all((path / name).is_file() for name in names) for names in _OURS):
            raise OutputError(f"{path} holds something else than an emitted model", "Give another name.")
    if not path.resolve().parent.is_dir():
        raise OutputError(f"there is no directory {path.parent}", "Make it, or write elsewhere.")
    if not os.access(path.resolve().parent, os.W_OK | os.X_OK):
        raise OutputError(f"no permission to write in {path.parent}", "Write elsewhere, or change its permissions.")


def write_directory(path: Path, files: Mapping[str, str | bytes | Path], *, force: bool = False) -> None:
    """Write ``files`` beside ``path``, then move them there as a whole; a path is a file that is moved as it is.

    Raises
    ------
    OutputError
        If it cannot be written; nothing is left behind then, and what was there before still is.
    """
    check_directory(path, force=force)
    target = path.resolve()
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    try:
        try:
            beside.mkdir()
            for name, content in files.items():
                if isinstance(content, Path):
                    shutil.move(content, beside / name)
                else:
                    (beside / name).write_bytes(content.encode() if isinstance(content, str) else content)
            if target.exists():
                target.rename(old)
            beside.rename(target)
        finally:
            if old.exists() and not target.exists():  # whatever came between, an interrupt too
                old.rename(target)
            shutil.rmtree(beside, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}", "Write elsewhere, or make room.") from None
