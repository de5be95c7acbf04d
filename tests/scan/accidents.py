"""Everything that may befall a call."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from pathlib import Path
from typing import Any


def hang() -> None:
    time.sleep(600)


def crash() -> None:
    ctypes.string_at(0)


def leave(code: int) -> None:
    os._exit(code)


def end(signal: int) -> None:
    os.kill(os.getpid(), signal)


def grow() -> None:
    kept = []
    while True:
        kept.append(bytearray(b"x") * 2**24)
        time.sleep(0.001)


def grow_and_return() -> None:
    bytearray(b"x") * 2**29


def fill() -> None:
    bytearray(2**62)


def quit_program() -> None:
    sys.exit("enough")


def refuse() -> None:
    raise ValueError("odd input")


def chat() -> int:
    for _ in range(10_000):
        print("x" * 100)
        print("y" * 100, file=sys.stderr)
    return os.system("echo from a shell; echo and once more >&2")


def unpicklable() -> Any:
    return lambda: None


def large() -> bytes:
    return b"x" * 20_000_000


def close_everything() -> None:
    os.closerange(3, 100)
    time.sleep(600)


def start_child(target: Path, code: int | None) -> str:
    """Start a process that says its number and stays, and return, or end."""
    if os.fork() == 0:
        target.with_suffix(".new").write_text(str(os.getpid()))
        target.with_suffix(".new").replace(target)
        time.sleep(600)
    while not target.exists():
        time.sleep(0.01)
    if code is not None:
        os._exit(code)
    return "done"


def say_and_hang(target: Path) -> None:
    """Write the numbers of this process and of its watcher, whole or not at all."""
    target.with_suffix(".new").write_text(f"{os.getpid()} {os.getppid()}")
    target.with_suffix(".new").replace(target)
    time.sleep(600)


def where() -> str:
    return str(Path.cwd())


def threads() -> str | None:
    return os.environ.get("OMP_NUM_THREADS")


PREPARED: list[int] = []


def prepare() -> None:
    PREPARED.append(os.getpid())


def prepare_badly() -> None:
    print("not a word of this")
    raise SystemExit(3)


def crash_while_preparing() -> None:
    os.kill(os.getpid(), 11)


def prepared() -> list[int]:
    return PREPARED
