"""Running code that is not ours: what it raises becomes an error with the place and its own words."""

from __future__ import annotations

import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from skipgraph.errors import BuildError, SkipgraphError, SourceError

# Where code lives that is nobody's own: the standard library, installed packages, ourselves.
_LIBRARIES = (*(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")), str(Path(__file__).parents[1]))


def described(error: BaseException) -> str:
    """``file:line: Type: words``, the place being the innermost frame of the user's own code, if there is one."""
    words = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).is_file() and not frame.filename.startswith(_LIBRARIES)
    ]
    return f"{frames[-1].filename}:{frames[-1].lineno}: {words}" if frames else words


@contextmanager
def running(what: str, remedy: str = "") -> Iterator[None]:
    """Turn what foreign code raises in this block into a `BuildError` that says ``what`` was being done.

    Raises
    ------
    SourceError
        If the code has a syntax error.
    BuildError
        If it raises anything else, or exits.
    """
    try:
        yield
    except SkipgraphError:
        raise
    except SyntaxError as error:
        raise SourceError(
            f"{error.filename}:{error.lineno}: syntax error: {error.msg}", "Correct that line."
        ) from error
    except SystemExit as error:
        raise BuildError(
            f"{what} ends the program: {described(error)}",
            'Put what must not run on import under: if __name__ == "__main__":',
        ) from error
    except ModuleNotFoundError as error:
        missing = f"Install {error.name} into this environment, or run from where it can be imported."
        raise BuildError(f"{what} failed: {described(error)}", missing if error.name else remedy) from error
    except ImportError as error:
        if "relative import" in str(error):
            remedy = "A file that belongs to a package is named through it: package.module:Name."
        raise BuildError(f"{what} failed: {described(error)}", remedy) from error
    except Exception as error:
        raise BuildError(f"{what} failed: {described(error)}", remedy) from error
