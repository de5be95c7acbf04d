"""How a command ends: the exit codes, and what is said, in one place.

::

    0    done
    1    an internal error
    2    wrong usage; an input that cannot be read or is refused; an output that cannot be written or exists
    3    the model could not be built or run
    4    verification failed, nothing was written
    5    nothing to rewrite, or a pattern that matches nothing
    7    an optional dependency is missing
    130  interrupted
    141  broken pipe
"""

from __future__ import annotations

import functools
import os
import sys
import traceback
from collections.abc import Callable
from typing import ParamSpec

import typer

from skipgraph import __version__
from skipgraph.errors import SkipgraphError

_INTERNAL = 1
_INTERRUPTED = 130
_BROKEN_PIPE = 141

_Parameters = ParamSpec("_Parameters")


def guarded(command: Callable[_Parameters, None]) -> Callable[_Parameters, None]:
    """``command`` with every way in which it can end turned into an exit code and a short message."""

    @functools.wraps(command)
    def run(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> None:
        try:
            command(*args, **kwargs)
            sys.stdout.flush()
        except SkipgraphError as error:
            say(f"error: {error.message}")
            if error.remedy:
                say(f"  {error.remedy}")
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            say("interrupted")
            raise typer.Exit(_INTERRUPTED) from None
        except BrokenPipeError:
            # Whoever read our output has enough. What is still buffered must not be written at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(_BROKEN_PIPE) from None
        except (typer.Exit, typer.Abort):
            raise
        except Exception as error:
            if _came_of_an_interrupt(error):
                say("interrupted")
                raise typer.Exit(_INTERRUPTED) from None
            traceback.print_exc()
            say(f"error: internal error of skipgraph {__version__}: {type(error).__name__}: {error}")
            say("  Please report it with the lines above, the command, and the model if you can share it.")
            raise typer.Exit(_INTERNAL) from None

    return run


def _came_of_an_interrupt(error: BaseException) -> bool:
    """Whether an interrupt was taken for an error: one that strikes while a class is made becomes a RuntimeError."""
    cause = error.__cause__
    return cause is not None and (isinstance(cause, KeyboardInterrupt) or _came_of_an_interrupt(cause))


def say(text: str) -> None:
    """Write one line to standard error."""
    typer.echo(text, err=True)
