"""What the user wants of the ranks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Literal

from skipgraph.compress.factor import Form
from skipgraph.errors import UsageError

Method = Literal["svd", "moments", "compensated"]
BUDGETS = ("flops", "parameters", "peak", "latency")


@dataclass(frozen=True, slots=True)
class Asked:
    """What the user wants of the ranks; one of ``rank``, ``max_error`` and ``budget``.

    Attributes
    ----------
    rank : float or int or None
        The same for all layers: a share of the full rank below 1.0 (a float), or a number of channels (an int).
    max_error : float or None
        Relative error of each layer's output that is not to be passed.
    budget : dict or None
        Measure -> by how much it may change, relatively: ``{"flops": -0.3}``. ``"flops"``, ``"parameters"``,
        ``"peak"`` (bytes held at once) and ``"latency"`` (seconds, measured where this runs).
    method : str or None
        ``"svd"``: truncated, without data. ``"moments"``: by the moments of the layers' inputs. ``"compensated"``: in
        turn, by what the rewritten model gives each layer. Without data the first, else the last.
    recalibrated : bool
        Move the statistics of batch norms as far as factoring has moved what they read.
    exactly : dict or None
        Path of a layer -> form and rank, as an earlier plan has chosen them.
    """

    rank: float | int | None = None
    max_error: float | None = None
    budget: Mapping[str, float] | None = None
    method: Method | None = None
    recalibrated: bool = True
    exactly: Mapping[str, tuple[Form, int]] | None = None

    def __post_init__(self) -> None:
        """Refuse what means nothing."""
        if self.exactly is not None:
            return
        given = [name for name in ("rank", "max_error", "budget") if getattr(self, name) is not None]
        if len(given) != 1:
            raise UsageError(
                f"{' and '.join(given) or 'nothing'} is given to choose the ranks by",
                "Give one of rank, max_error and budget.",
            )
        if self.rank is not None and not _is_rank(self.rank):
            raise UsageError(f"{self.rank} is no rank", "Give a share above 0 and up to 1.0, or a number from 1.")
        if self.max_error is not None and not 0 <= self.max_error < 1:
            raise UsageError(f"{self.max_error} is no relative error", "Give a number from 0 to below 1, such as 0.01.")
        if any(not -1 <= share <= 0 for share in (self.budget or {}).values()):
            raise UsageError("a budget takes away from nothing to all", "Give shares from -1 to 0, such as -0.3.")
        unknown = [name for name in self.budget or {} if name not in BUDGETS]
        if unknown:
            raise UsageError(f"there is no budget of {unknown[0]}", f"There are {', '.join(BUDGETS)}.")


def _is_rank(rank: float) -> bool:
    return rank >= 1 if isinstance(rank, Integral) else 0 < rank <= 1
