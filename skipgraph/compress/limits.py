"""Ranks and budgets as the user writes them."""

from __future__ import annotations

import re

from skipgraph.errors import UsageError

_LIMIT = re.compile(r"(?P<measure>[a-z]+)=(?P<sign>[-−+]?)(?P<percent>\d+(?:\.\d+)?)%")


def parse_rank(text: str) -> float | int:
    """A share of the full rank if it is written with a point, else a number of channels.

    Raises
    ------
    UsageError
        If it is neither.
    """
    try:
        return float(text) if "." in text else int(text)
    except ValueError:
        raise UsageError(f"{text!r} is no rank", "Give a share such as 0.5, or a number of channels.") from None


def parse_budget(text: str) -> dict[str, float]:
    """``flops=-30%,parameters=-20%`` as relative changes: ``{"flops": -0.3, "parameters": -0.2}``.

    Raises
    ------
    UsageError
        If it cannot be read, or takes away nothing.
    """
    budget: dict[str, float] = {}
    for part in text.split(","):
        match = _LIMIT.fullmatch(part.strip())
        if match is None:
            raise UsageError(f"the budget {part!r} cannot be read", "Write it like flops=-30%.")
        share = float(match["percent"]) / 100 * (1 if match["sign"] == "+" else -1)
        if match["sign"] == "":
            raise UsageError(
                f"the budget {part!r} does not say by how much it may change", f"Write {match['measure']}=-…%."
            )
        if share > 0:
            raise UsageError(f"the budget {part!r} takes nothing away", f"Write {match['measure']}=-…%.")
        if match["measure"] in budget:
            raise UsageError(f"{match['measure']} is in the budget twice", "Give one limit of it.")
        budget[match["measure"]] = share
    return budget
