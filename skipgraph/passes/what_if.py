"""What each possible rewrite of each skip would change, before anything is rewritten."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from skipgraph.graph import SkipGraph
from skipgraph.passes.concat_to_sum import ConcatToSum
from skipgraph.passes.site import Match, Refusal
from skipgraph.passes.sum_to_concat import SumToConcat

_PASSES = (ConcatToSum(), SumToConcat())


def what_if(graph: SkipGraph) -> None:
    """Fill in ``rewrites`` of every skip.

    Parameters
    ----------
    graph : SkipGraph
        With its skips found, and priced.

    Notes
    -----
    Each entry is ``{"status", "reason", "delta"}``: ``"exact"`` with what the rewrite changes in FLOPs, parameters,
    peak and bytes moved; ``"blocked"`` or ``"n/a"`` with an empty ``delta``; and why, in one sentence. A rewrite is of
    a whole merge, so all skips of a merge are told the same, as if it alone were rewritten.
    """
    for rewrite in _PASSES:
        for found in rewrite.find(graph):
            if found.merge.skips:
                outcome = _outcome(rewrite, found)
                for skip in found.merge.skips:
                    skip.rewrites[rewrite.name] = dict(outcome)


def _outcome(rewrite: Any, found: Match | Refusal) -> dict[str, Any]:
    if isinstance(found, Refusal):
        return {"status": found.status, "reason": found.reason, "delta": {}}
    return {"status": "exact", "reason": found.reason, "delta": asdict(rewrite.price(found))}
