"""Where a report goes: standard output, or a file that is written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

from skipgraph.errors import OutputError, UsageError

_TEXT_SUFFIXES = ("", ".txt")  # of a file that a table may be written to


def format_for(path: Path | None, wanted: str | None, known: tuple[str, ...]) -> str:
    """The format to write: what was asked for, else what the suffix of ``path`` says, else a table.

    Raises
    ------
    OutputError
        If there is no such format.
    """
    name = wanted
    if name is None:
        name = "table" if path is None or path.suffix in _TEXT_SUFFIXES else path.suffix.removeprefix(".")
    if name not in known:
        raise OutputError(f"unknown format {name!r}", f"Use one of: {', '.join(known)}.")
    return name


def check_target(path: Path, *, force: bool) -> None:
    """Refuse, before any work is done, a file that will not be written.

    Raises
    ------
    OutputError
        If the file exists and ``force`` is not given, is not a regular file, or its directory is missing or closed.
    """
    if path.exists() and not path.is_file():
        raise OutputError(f"{path} is not a regular file", "Name a file; or leave -o out for standard output.")
    if path.exists() and not force:
        raise OutputError(f"{path} exists", "Give --force to replace it, or another name.")
    if not path.parent.is_dir():
        raise OutputError(f"there is no directory {path.parent}", "Make it, or write elsewhere.")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise OutputError(f"no permission to write in {path.parent}", "Write elsewhere, or change its permissions.")


def write_file(path: Path, content: str | bytes, *, force: bool) -> None:
    """Write ``content`` beside ``path``, then move it there.

    Raises
    ------
    OutputError
        If it cannot be written; nothing is left behind then.
    """
    check_target(path, force=force)
    target = path.resolve()
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    data = content.encode() if isinstance(content, str) else content
    try:
        try:
            with beside.open("xb") as file:
                file.write(data)
            beside.replace(target)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}", "Write elsewhere, or make room.") from None


def write_standard_output(content: str | bytes) -> None:
    """Write ``content`` to standard output; text ends in a newline.

    Raises
    ------
    OutputError
        If the content is binary and would go to a terminal.
    """
    if isinstance(content, bytes):
        if sys.stdout.isatty():
            raise OutputError("this format is binary, and standard output is a terminal", "Give a file by -o FILE.")
        sys.stdout.buffer.write(content)
        return
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a terminal that knows no × shows a question mark
    sys.stdout.write(content if content.endswith("\n") else f"{content}\n")


@contextlib.contextmanager
def our_output_only() -> Iterator[None]:
    """Standard output is the report's: what foreign code prints goes to standard error; its warnings are not shown."""
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
        yield


def read_text(path: Path) -> str:
    """The text of a file.

    Raises
    ------
    UsageError
        If it cannot be read.
    """
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise UsageError(f"{path} cannot be read: {reason}", "Name a file that is there.") from None
