"""What a verification found."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Check:
    """The tensors of one kind that were compared in one run.

    Attributes
    ----------
    mode : {"evaluation", "training"}
    weights : {"given", "redrawn"}
    dtype : str
        ``"float64"``, or the model's own.
    shapes : tuple of tuple of int
        Of the tensors among the inputs.
    what : str
        ``"outputs"``, ``"gradients"`` or ``"buffers"``; of a part of the model, ``"outputs of conv1"``.
    comparisons : int
        How many tensors.
    error : float
        The worst, in parts of the tensor's largest value (of a vanishing gradient, of a millionth of the model's
        largest); where that is widened by noise, divided by how much.
    tolerance : float
        What was allowed, in the same measure.
    noise_floor : float
        The largest rounding noise that had to be measured, relative; 0 where there was no need.
    """

    mode: str
    weights: str
    dtype: str
    shapes: tuple[tuple[int, ...], ...]
    what: str
    comparisons: int
    error: float
    tolerance: float
    noise_floor: float = 0.0


@dataclass(frozen=True, slots=True)
class Verification:
    """A rewritten model computes what the original does.

    Attributes
    ----------
    checks : tuple of Check
    tolerance : float
        Relative, in float64.
    noise_floor : float
        The largest rounding noise, relative, by which ``tolerance`` had to be widened; 0 if it never had to be.
    own_error, original_error : float or None
        Errors of the rewritten model and of the original in the model's own dtype, against the original in float64;
        None where that is its own dtype, or it cannot be run.
    by_parts : bool
        The model was too large for float64 as a whole, and was compared part by part.
    skipped : tuple of str
        What could not be compared, and why.
    seconds : float
    """

    checks: tuple[Check, ...]
    tolerance: float
    noise_floor: float
    own_error: float | None
    original_error: float | None
    by_parts: bool
    skipped: tuple[str, ...]
    seconds: float

    @property
    def worst(self) -> float:
        """The worst relative error in float64."""
        return max((check.error for check in self.checks if check.dtype == "float64"), default=0.0)

    @property
    def summary(self) -> str:
        """One line for a person."""
        exact = [check for check in self.checks if check.dtype == "float64"]
        count = sum(check.comparisons for check in exact)
        noise = " or rounding noise" if self.noise_floor else ""
        text = f"{count} comparisons in float64 within {self.tolerance:.0e}{noise} (worst {self.worst:.1e})"
        if self.by_parts:
            text += ", part by part"
        if self.own_error is not None:
            dtype = next(check.dtype for check in self.checks if check.dtype != "float64")
            text += f"; {dtype} error {self.own_error:.1e}, the original's own {self.original_error:.1e}"
        return text

    def as_json(self) -> dict[str, Any]:
        """Plain data for ``report.json``."""
        return {**asdict(self), "worst": self.worst, "summary": self.summary}
