"""Every error that a user can meet.

::

    SkipgraphError                1  (never raised itself)
    ├── UsageError                2  wrong usage; an input that cannot be read or is refused; an output that exists
    │   ├── SourceError              a SPEC that names nothing usable
    │   ├── InputError               an --input that cannot be read
    │   ├── WeightsError             weights that cannot be read or do not fit
    │   ├── OutputError              an output that cannot be written, or exists
    │   └── PlanError                a plan that cannot be read, or was made for another model
    ├── ModelError                3  the model could not be built or run
    │   ├── BuildError
    │   ├── CaptureError
    │   ├── EmitError                it cannot be written as source, or exported
    │   └── ProcessError             it ran in a process of its own, which gave no result
    ├── VerificationError         4  a rewritten model does not compute what the original does
    ├── NothingToRewriteError     5  no site can be rewritten, or a pattern matches nothing
    ├── BudgetError               6  a budget that cannot be met
    └── MissingDependencyError    7  an optional package is not installed

The number is the exit code of the command line. Every error says what was wrong and where, and carries the remedy.
"""

from __future__ import annotations


def first_line(error: BaseException) -> str:
    """The first line of what an error says; the name of its class if it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


class SkipgraphError(Exception):
    """An error with a remedy.

    Parameters
    ----------
    message : str
        What was wrong, and where.
    remedy : str
        What the user can do about it, as an imperative sentence. May be empty.
    """

    exit_code = 1

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n{self.remedy}" if self.remedy else self.message


class UsageError(SkipgraphError):
    """Wrong usage, or a file that cannot be read, is refused, or exists."""

    exit_code = 2


class SourceError(UsageError):
    """A SPEC that names no model."""


class InputError(UsageError):
    """An example input that cannot be read."""


class WeightsError(UsageError):
    """Weights that cannot be read or do not fit the model."""


class OutputError(UsageError):
    """An output that cannot be written, or exists already."""


class PlanError(UsageError):
    """A plan that cannot be read, or was made for another model."""


class ModelError(SkipgraphError):
    """The model could not be built or run; its own words are in the message."""

    exit_code = 3


class BuildError(ModelError):
    """The model's constructor raised."""


class CaptureError(ModelError):
    """The model's forward raised, or depends on data.

    Attributes
    ----------
    reads_values : bool
        It asked for the values of tensors that have none. A model that was built without data may have had them, had
        it been built with.
    """

    reads_values = False


class EmitError(ModelError):
    """The model cannot be written as source, or exported."""


class ProcessError(ModelError):
    """What ran in a process of its own gave no result.

    Parameters
    ----------
    message : str
        What became of it: "ran longer than 300 s".
    remedy : str
        What the user can do about it. May be empty.
    kind : str
        ``"time"`` and ``"memory"``: it went beyond a limit, or the system had no memory left; ``"signal"``: it died by
        one; ``"exit"``: it ended itself; ``"raised"``: it raised; ``"result"``: what it returned cannot be sent;
        ``"lost"``: it was never started, or ended with the process that watched it.
    code : int, optional
        The number of the signal, or the exit code.
    raised : str
        The name of the exception's class, if it raised; for the person who looks into it, ``trace`` is its traceback.
    trace : str
    """

    def __init__(
        self,
        message: str,
        remedy: str = "",
        *,
        kind: str = "lost",
        code: int | None = None,
        raised: str = "",
        trace: str = "",
    ) -> None:
        super().__init__(message, remedy)
        self.kind = kind
        self.code = code
        self.raised = raised
        self.trace = trace


class VerificationError(SkipgraphError):
    """A rewritten model does not compute what the original does."""

    exit_code = 4


class NothingToRewriteError(SkipgraphError):
    """No site can be rewritten, or a pattern matches nothing."""

    exit_code = 5


class BudgetError(SkipgraphError):
    """A budget that cannot be met; the message says the best that can."""

    exit_code = 6


class MissingDependencyError(SkipgraphError):
    """An optional package is not installed."""

    exit_code = 7
