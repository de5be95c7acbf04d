"""A sign of life on standard error for what takes long."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_DELAY_SECONDS = 2.0
_REFRESH_SECONDS = 0.25
Tell = Callable[[str], None]


@contextmanager
def progress(text: str, *, quiet: bool = False) -> Iterator[Tell]:
    """Show ``text`` beside a spinner while the block runs, once it has run for two seconds, if somebody can see it.

    The block is given a function by which it says what it is doing.
    """
    said = [""]

    def tell(what: str) -> None:
        said[0] = what

    if quiet or not sys.stderr.isatty():
        yield tell
        return
    done = threading.Event()
    watcher = threading.Thread(target=_show_until, args=(done, text, said), daemon=True)
    watcher.start()
    try:
        yield tell
    finally:
        done.set()
        watcher.join()


def _show_until(done: threading.Event, text: str, said: list[str]) -> None:
    if done.wait(_DELAY_SECONDS):
        return
    from rich.console import Console
    from rich.live import Live
    from rich.spinner import Spinner

    spinner = Spinner("dots", f"{text} …")
    with Live(spinner, console=Console(stderr=True), transient=True, redirect_stdout=False, redirect_stderr=False):
        while not done.wait(_REFRESH_SECONDS):
            spinner.update(text=f"{text}: {said[0]} …" if said[0] else f"{text} …")
