"""Rewrites of merges, each in a file of its own with how it finds its sites and what it would change there."""

from skipgraph.passes.concat_to_sum import ConcatToSum
from skipgraph.passes.site import Delta, Match, Refusal
from skipgraph.passes.sum_to_concat import SumToConcat
from skipgraph.passes.what_if import what_if

__all__ = ["ConcatToSum", "Delta", "Match", "Refusal", "SumToConcat", "what_if"]
