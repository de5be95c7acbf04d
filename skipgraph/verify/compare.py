"""How far apart two runs are, beside what rounding does to one of them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch

from skipgraph.capture.trees import map_tensors
from skipgraph.passes.state_map import StateMap
from skipgraph.verify.inputs import Inputs
from skipgraph.verify.running import Outcome, run
from skipgraph.verify.weights import nudge, nudged

KINDS = ("outputs", "buffers", "gradients")
_LEAST = 1e-6  # a vanishing gradient is measured against this part of the model's largest
_SPREAD = 16.0  # rounding errors of two orders of summation, over the few that were sampled
_TRIALS = 3
_OF_ZEROS = 1e-10  # noise where the original has zeros is measured against this part of the largest of its kind
_MOST_NOISE, _MOST_NOISE_OF_LARGEST = 1e-7, 1e-10

Noise = Callable[[], dict[tuple[str, str], float]]


@dataclass(frozen=True, slots=True)
class Found:
    """The worst comparison of one kind.

    ``error`` and ``allowed`` are relative to the original's largest absolute value; so is ``floor``, the largest
    rounding noise of all that were measured. ``drowned`` are tensors that rounding alone moves as far, and by more than
    can be called noise, with that share: they tell nothing either way, and are not among the comparisons.
    """

    kind: str
    comparisons: int
    name: str = ""
    error: float = 0.0
    allowed: float = 1.0
    floor: float = 0.0
    drowned: tuple[tuple[str, float], ...] = ()

    @property
    def failed(self) -> bool:
        """Whether it is more than is allowed."""
        return not self.error <= self.allowed


def compare(original: Outcome, rewritten: Outcome, tolerance: float, noise: Noise) -> list[Found]:
    """Compare all outputs, buffers and gradients.

    Two tensors are equal if ``max|a - b| <= tolerance * scale``, where ``scale`` is ``max|b|``, of a gradient at least
    a millionth of the model's largest. Where that is not so, ``noise`` is asked for the absolute floor of the tensor.
    NaN and infinities must stand in the same places; integers and truth values must be equal.

    Parameters
    ----------
    original, rewritten : Outcome
        By the rewritten model's names. Buffers that only one has are the code's own tables, and not compared.
    tolerance : float
    noise : callable
        Gives floors by kind and name; called once at most.

    Returns
    -------
    list of Found
        One a kind.
    """
    floors: dict[tuple[str, str], float] | None = None
    found = []
    for kind in KINDS:
        theirs, ours = getattr(original, kind), getattr(rewritten, kind)
        names = theirs.keys() & ours.keys() if kind == "buffers" else theirs.keys() | ours.keys()
        largest = max((size(tensor) for tensor in theirs.values()), default=0.0)
        worst, widest = Found(kind, 0, allowed=tolerance), 0.0
        drowned = []
        for name in (name for name in [*theirs, *(ours.keys() - theirs.keys())] if name in names):
            a, b = ours.get(name), theirs.get(name)
            if a is None or b is None:
                worst = _worse(worst, Found(kind, 0, name, float("inf"), tolerance))
                continue
            least = _LEAST * largest if kind == "gradients" else 0.0
            scale = max(size(b), least) or _OF_ZEROS * largest or sys.float_info.min
            error, allowed = distance(a, b), tolerance
            if tolerance * scale < error < float("inf"):
                floors = noise() if floors is None else floors
                most = max(_MOST_NOISE * scale, _MOST_NOISE_OF_LARGEST * largest)
                floor = floors.get((kind, name), 0.0)
                if most < error <= floor:
                    drowned.append((name, floor / scale))
                    continue
                allowed = max(tolerance, min(floor, most) / scale)
            widest = max(widest, allowed if allowed > tolerance else 0.0)
            worst = _worse(worst, Found(kind, 0, name, error / scale, allowed))
        clear = len(names) - len(drowned)
        found.append(Found(kind, clear, worst.name, worst.error, worst.allowed, widest, tuple(drowned)))
    return found


def _worse(one: Found, other: Found) -> Found:
    """The one that is nearer to what it is allowed, or further beyond it."""
    return other if not one.name or other.error / other.allowed > one.error / one.allowed else one


def size(tensor: torch.Tensor) -> float:
    """The largest absolute value, of those that are finite."""
    if not tensor.is_floating_point() and not tensor.is_complex():
        return 0.0
    magnitude = tensor.detach().abs()
    finite = magnitude[magnitude.isfinite()]
    return float(finite.max()) if finite.numel() else 0.0


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """``max|a - b|``; infinite where shapes or dtypes, places of NaN, infinities, or whole numbers differ."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return float("inf")
    if not a.numel():
        return 0.0
    if not a.is_floating_point() and not a.is_complex():
        return 0.0 if torch.equal(a, b) else float("inf")
    apart = (a - b).abs().masked_fill((a == b) | (a.isnan() & b.isnan()), 0.0)
    largest = float(apart.max())
    return largest if largest == largest else float("inf")


def measured_noise(
    module: torch.nn.Module, inputs: Inputs, seed: int, original: Outcome, state_map: StateMap
) -> dict[tuple[str, str], float]:
    """By how much rounding alone moves each tensor of the original's run.

    The original runs three times more, with every value of its parameters and inputs one unit in the last place up or
    down at random; the floor is the largest change seen, times 16.

    Another order of a sum has the result of the first order with each of its terms off by some units in the last place
    [1]_, and each term of a linear layer has a factor of its own among the weights and the inputs. So what is sampled
    is what another order does, by rounding as well as by what later layers make of it; a gradient that vanishes but
    for rounding comes out as other noise each time. Three samples and the factor stand for the growth with the number
    of terms (a square root) and for tensors of a single value. Everything sampled is a change by 1e-16: a mistake of
    1e-3 in one weight is far outside, however badly conditioned the model. What is more than 1e-7 of the tensor (or
    1e-10 of the largest of its kind) is not taken for noise.

    References
    ----------
    .. [1] N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., SIAM 2002, sections 4.2 and 3.1.
    """
    floors: dict[tuple[str, str], float] = {}
    for trial in range(1, _TRIALS + 1):
        generator = torch.Generator().manual_seed(trial)
        other_inputs: Inputs = map_tensors(lambda tensor: nudge(tensor, generator), inputs)  # noqa: B023
        with nudged(module, trial):
            other = run(module, other_inputs, seed).rewritten(state_map)
        for kind in KINDS:
            for name, tensor in getattr(original, kind).items():
                moved = distance(getattr(other, kind)[name], tensor)
                if moved < float("inf"):
                    floors[kind, name] = max(floors.get((kind, name), 0.0), _SPREAD * moved)
    return floors
