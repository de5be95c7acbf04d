"""The forward of both modes from that of each: what they share once, the rest under ``if self.training``."""

from __future__ import annotations

from difflib import SequenceMatcher

_FLAGS = ("training=False", "training=True")


def merged(evaluation: list[str], training: list[str]) -> list[str]:
    """Statements that are those of either mode, in its order, when that mode is on.

    Nothing but whole statements is compared, so that the result does in each mode exactly what its own list says.
    """
    steps = SequenceMatcher(None, evaluation, training, autojunk=False).get_opcodes()
    shared = sum(stop - start for kind, start, stop, _, _ in steps if kind == "equal")
    if 2 * shared < min(len(evaluation), len(training)):
        return _branch(evaluation, training)
    lines: list[str] = []
    for kind, start, stop, its_start, its_stop in steps:
        mine, theirs = evaluation[start:stop], training[its_start:its_stop]
        lines += mine if kind == "equal" else _branch(mine, theirs)
    return lines


def _branch(evaluation: list[str], training: list[str]) -> list[str]:
    if len(evaluation) == len(training):
        flags = [_flagged(mine, theirs) for mine, theirs in zip(evaluation, training, strict=True)]
        if all(flags):
            return flags
    if not training:
        return ["if not self.training:", *_indented(evaluation)]
    lines = ["if self.training:", *_indented(training)]
    if training[-1].startswith("return"):
        return lines + evaluation
    return [*lines, "else:", *_indented(evaluation)] if evaluation else lines


def _flagged(mine: str, theirs: str) -> str:
    """One statement for two that differ in nothing but the flag of the mode; empty if they differ in more."""
    common = mine.replace(_FLAGS[0], "training=self.training")
    return common if common == theirs.replace(_FLAGS[1], "training=self.training") else ""


def _indented(lines: list[str]) -> list[str]:
    return [f"    {line}" for line in lines]
