"""Merges, gates and skips of a `SkipGraph`, by the definitions of section 2 of the design."""

from skipgraph.skips.detect import find_skips

__all__ = ["find_skips"]
