"""An original and a rewritten module, run side by side on the same inputs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import torch
from torch import fx

from skipgraph.errors import VerificationError
from skipgraph.passes.state_map import StateMap
from skipgraph.verify.compare import Found, compare, distance, measured_noise, size
from skipgraph.verify.divergence import first_difference, first_random
from skipgraph.verify.inputs import Inputs, shapes
from skipgraph.verify.result import Check
from skipgraph.verify.running import Outcome, run

_REMEDY = "This is a mistake in skipgraph: please report it, and leave the site out with --skip meanwhile."
_OTHER_SEEDS = 4
_OUT_OF_MEMORY = (MemoryError, torch.OutOfMemoryError)


class RefusedError(Exception):
    """The original itself does not run so."""


@dataclass
class Pair:
    """Two modules in float64 that must do the same, and what was found of them so far.

    Attributes
    ----------
    before, after : torch.nn.Module
        Of the verification's own; what follows from ``before`` by ``state_map`` is loaded in ``after``.
    graphs : callable
        The graphs of both in their present mode.
    """

    before: torch.nn.Module
    after: torch.nn.Module
    graphs: Callable[[], tuple[fx.Graph, fx.Graph]]
    state_map: StateMap
    tolerance: float
    where: str = ""
    checks: list[Check] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    noise_floor: float = 0.0

    def check(self, inputs: Inputs, seed: int, mode: str, weights: str) -> None:
        """Run both forward and backward in the present mode, and compare.

        Raises
        ------
        RefusedError
            If the original raises.
        VerificationError
        """
        label = f"{mode} mode, {weights} weights, inputs {text_of(inputs)}, float64"
        try:
            original = run(self.before, inputs, seed)
        except _OUT_OF_MEMORY:
            raise
        except Exception as error:
            raise RefusedError(f"{label}: the original raises {first_line(error)}") from error
        try:
            rewritten = run(self.after, inputs, seed)
        except _OUT_OF_MEMORY:
            raise
        except Exception as error:
            message = f"the rewritten model raises {first_line(error)}, and the original does not ({label})"
            raise VerificationError(f"{message}. {self._parting(inputs, seed)}", _REMEDY) from error
        theirs = original.rewritten(self.state_map)
        found = compare(
            theirs, rewritten, self.tolerance,
            lambda: measured_noise(self.before, inputs, seed, theirs, self.state_map),
        )  # fmt: skip
        for one in found:
            if one.failed:
                raise self._failure(one, label, inputs, seed, original)
        self._note(found, original, inputs, mode, weights, label)

    def _note(self, found: list[Found], original: Outcome, inputs: Inputs, mode: str, weights: str, label: str) -> None:
        empty = [name for name, tensor in original.outputs.items() if tensor.numel() and bool(tensor.isnan().all())]
        if empty:
            self.skipped.append(f"{label}: the original's output {empty[0]} is NaN throughout, which says little")
        for one in found:
            if one.drowned:
                name, share = max(one.drowned, key=lambda pair: pair[1])
                also = f" and of {len(one.drowned) - 1} more" if len(one.drowned) > 1 else ""
                self.skipped.append(f"{label}: {one.kind} of {name}{also}: rounding alone moves them by {share:.0e}")
            if one.comparisons:
                what = f"{one.kind} of {self.where}" if self.where else one.kind
                widened = one.allowed / self.tolerance
                self.noise_floor = max(self.noise_floor, one.floor)
                self.checks.append(
                    Check(
                        mode,
                        weights,
                        "float64",
                        shapes(inputs),
                        what,
                        one.comparisons,
                        one.error / widened,
                        self.tolerance,
                        one.floor,
                    )
                )

    def _failure(self, found: Found, label: str, inputs: Inputs, seed: int, original: Outcome) -> VerificationError:
        if (node := self._randomness(inputs, seed, original)) is not None:
            return VerificationError(
                f"the forward is random beyond dropout, and draws otherwise in the rewritten model ({label})"
                + (f". The first random node is {node}." if node else ""),
                "Set the rate of what it draws to zero, or leave the site out with --skip.",
            )
        kind = {"outputs": "output", "buffers": "buffer", "gradients": "gradient of"}[found.kind]
        name = f"{kind} {found.name}".rstrip()
        amount = (
            "differs in shape, in whole numbers, or in where it is infinite or NaN"
            if found.error == float("inf")
            else f"differs by {found.error:.1e} of its largest value, where {found.allowed:.1e} is allowed"
        )
        where = f" at {self.where}" if self.where else ""
        message = f"the rewritten model does not compute what the original does{where}: {name} {amount} ({label})"
        return VerificationError(f"{message}. {self._parting(inputs, seed)}".rstrip(), _REMEDY)

    def _parting(self, inputs: Inputs, seed: int) -> str:
        """Where they part; the search must not hide what was found."""
        theirs, ours = self.graphs()
        with suppress(Exception):
            return first_difference((self.before, theirs), (self.after, ours), inputs, seed, self.tolerance)
        return ""

    def _randomness(self, inputs: Inputs, seed: int, original: Outcome) -> str | None:
        """The first random node of an original that differs from itself; None if it does not."""
        for other_seed in range(seed + 1, seed + 1 + _OTHER_SEEDS) if original.drew else (seed,):
            other = run(self.before, inputs, other_seed).outputs
            if all(distance(other[name], one) <= self.tolerance * size(one) for name, one in original.outputs.items()):
                continue  # few draws may well come out alike
            with suppress(Exception):
                return first_random(self.before, self.graphs()[0], inputs, (seed, other_seed))
            return ""
        return None


def text_of(inputs: Inputs) -> str:
    """The shapes of the inputs, ``2x3x32x32``."""
    return ", ".join("x".join(map(str, shape)) or "scalar" for shape in shapes(inputs)) or "none"


def first_line(error: BaseException) -> str:
    """Type and first line of an exception."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
