"""A rewritten model, and everything that a report tells of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from skipgraph.capture import Captured
from skipgraph.compress import Compressed
from skipgraph.graph import SkipGraph
from skipgraph.passes import ConcatToSum, SumToConcat
from skipgraph.passes.workbench import Inputs
from skipgraph.plan import Plan
from skipgraph.rewriting.undoing import undo
from skipgraph.verify import Verification

Execution = Literal["model", "measured", "separate"]
Rewrite = ConcatToSum | SumToConcat
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which merges are to be rewritten.

    Attributes
    ----------
    only, skip : sequence of str
        Patterns, see `skipgraph.plan.selected`.
    execution : str
        See `rewrite`.
    exactly : set of str or None
        Ids of merges that a plan names; nothing else then counts.
    """

    only: Sequence[str] = ()
    skip: Sequence[str] = ()
    execution: Execution = "model"
    exactly: frozenset[str] | None = None


@dataclass(slots=True)
class Rewritten:
    """A rewritten model, and everything that a report tells of it.

    Attributes
    ----------
    model : Captured
        An ordinary module with tensors of its own: it runs, trains, and can be saved.
    original : Captured
        The original, captured, with slices of concats read off their operands where that helped (law 8); it shares its
        tensors with the user's model.
    plan : Plan
        What was done.
    as_it_runs : SkipGraph
        The graph of the user's own model in evaluation, priced.
    before, after : SkipGraph
        The graphs of ``original`` and ``model``, each tensor freed at its last use: what differs between them is due
        to the rewrite alone.
    verification : Verification or None
        What was compared; None if it was not asked for.
    inputs : tuple
        The example inputs.
    reference : Captured
        What ``model`` was proved to compute: the original, or, where layers were factored, the original with pairs of
        layers in their place.
    compressed : Compressed or None
        What was factored, with what error; None for an exact rewrite.
    """

    model: Captured
    original: Captured
    plan: Plan
    as_it_runs: SkipGraph
    before: SkipGraph
    after: SkipGraph
    verification: Verification | None
    inputs: Inputs
    reference: Captured
    compressed: Compressed | None = None

    def undo(self, *, weights: Mapping[str, Tensor] | Path | None = None) -> Captured:
        """The original again, by the algebra and from the weights that ``model`` has now: see `undo`."""
        return undo(self.model, self.plan, weights=weights)
