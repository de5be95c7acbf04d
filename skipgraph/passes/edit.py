"""The few graph edits that passes are written in.

A pass names calls by strings and never looks inside one; what a back end needs to know of a call (which of its tensors
follow the channels) stands in `skipgraph.ops.cuts`. `FxEdits` edits the graphs of a captured PyTorch model.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from skipgraph.passes.channels import Channels
from skipgraph.passes.factors import Window

Parts = Mapping[str, Sequence[str]]  # a call -> the calls that make its parts, one an operand


@dataclass(frozen=True, slots=True)
class Step:
    """One law at one call.

    ``reads`` are the calls that it reads in parts, ``before`` and ``after`` where the operands lie in what it reads and
    makes.
    """

    law: Literal["flatten", "distribute", "split"]
    call: str
    reads: tuple[str, ...]
    before: Channels
    after: Channels


@dataclass(frozen=True, slots=True)
class Product:
    """A linear layer on a tensor, as an operand of a sum.

    ``layer`` is None for the identity, ``norm`` a batch norm behind the layer, which in evaluation is a part of it.
    """

    operand: str
    layer: str | None = None
    norm: str | None = None


class Edits(Protocol):
    """What a graph that can be rewritten has to offer.

    Every edit leaves a graph that computes the same. New calls are put where the call that they replace stands.
    """

    def operands(self, concat: str) -> list[str]:
        """The tensors that a concat joins, in order."""
        ...

    def axis(self, concat: str) -> int:
        """The axis that a concat joins along, counted from the front."""
        ...

    def path(self, call: str | None) -> str | None:
        """The path of the module that a call calls; None if it calls none."""
        ...

    def scope(self, call: str) -> tuple[tuple[str, int], ...]:
        """The calls of modules that a call is made in, outermost first."""
        ...

    def shape(self, call: str) -> tuple[int, ...]:
        """The shape of what a call makes."""
        ...

    def intact(self, call: str) -> bool:
        """Whether a call is as it was: no edit has put another one in its place."""
        ...

    def is_concat(self, call: str) -> bool:
        """Whether a call is a plain concat, whose operands can be changed."""
        ...

    def straddled(self, call: str, before: Channels) -> int | None:
        """The first border of the operands that falls into a group of the call's channels; None if there is none."""
        ...

    def obstacle(self, step: Step) -> str | None:
        """Why a call cannot be taken apart although its operators allow it, in one sentence; None if it can."""
        ...

    def context(self, call: str) -> Hashable:
        """What a call runs under: calls of different contexts cannot stand for one another."""
        ...

    def handed_on(self, call: str) -> list[str]:
        """Calls that hand on what ``call`` makes, or one of what it makes, as it is: dropout does so in evaluation."""
        ...

    def reads(self, call: str) -> list[str]:
        """The calls that ``call`` reads."""
        ...

    def other_readers(self, call: str, readers: Sequence[str]) -> list[str]:
        """Calls that read what ``call`` makes, ``readers`` and such as ask for its sizes alone left out."""
        ...

    def description(self, step: Step) -> dict[str, Any]:
        """Fields of a `StepRecord` by which the parts of a call are found again."""
        ...

    def parts(self, call: str, of: Parts, before: Channels, after: Channels) -> list[str]:
        """A channel-wise call on each operand alone: ``f_a(a), f_b(b), …``, with its slices of all tensors."""
        ...

    def summands(self, call: str, of: Parts, before: Channels) -> list[str]:
        """A linear layer on each operand alone: ``W_a·a, W_b·b, …``; the first has the bias."""
        ...

    def is_sum(self, call: str) -> bool:
        """Whether a call adds two tensors, and does nothing else."""
        ...

    def terms(self, total: str, adds: Sequence[str]) -> list[str]:
        """The calls that a sum of several calls adds up, in order."""
        ...

    def merge_obstacle(self, layer: str, norm: str | None) -> str | None:
        """Why a layer cannot become a part of a larger one, in one sentence; None if it can."""
        ...

    def merged(self, products: Sequence[Product], window: Window, axis: int, at: str) -> str:
        """One layer on a concat of the products' operands, at the place of the call ``at``."""
        ...

    def concat(self, operands: Sequence[str], axis: int, at: str) -> str:
        """A concat, at the place of the call ``at``."""
        ...

    def add(self, left: str, right: str, at: str) -> str:
        """A sum, at the place of the call ``at``."""
        ...

    def set_operands(self, concat: str, operands: Sequence[str]) -> None:
        """Let a concat join other tensors."""
        ...

    def replace(self, old: str, new: str) -> None:
        """Let all that reads ``old`` read ``new``, and take ``old`` out."""
        ...

    def erase(self, concat: str) -> None:
        """Take out a concat that nobody reads but for its sizes, which are then read off its operands."""
        ...
