"""A sign of life on standard error for what takes long."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_DELAY_SECONDS = 2.0


@contextmanager
def progress(text: str, *, quiet: bool = False) -> Iterator[None]:
    """Show ``text`` beside a spinner while the block runs, once it has run for two seconds, if somebody can see it."""
    if quiet or not sys.stderr.isatty():
        yield
        return
    done = threading.Event()
    watcher = threading.Thread(target=_show_until, args=(done, text), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _show_until(done: threading.Event, text: str) -> None:
    if done.wait(_DELAY_SECONDS):
        return
    from rich.console import Console
    from rich.live import Live
    from rich.spinner import Spinner

    spinner = Spinner("dots", f"{text} …")
    with Live(spinner, console=Console(stderr=True), transient=True, redirect_stdout=False, redirect_stderr=False):
        done.wait()
