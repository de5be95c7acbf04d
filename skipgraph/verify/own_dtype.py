"""Both models in the dtype of the original's weights, against the original in float64."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import torch

from skipgraph.capture.trees import map_tensors, named_tensors
from skipgraph.errors import VerificationError
from skipgraph.verify.compare import size
from skipgraph.verify.inputs import Inputs, shapes
from skipgraph.verify.pair import RefusedError, first_line, text_of
from skipgraph.verify.precision import double, exactly
from skipgraph.verify.result import Check
from skipgraph.verify.running import device_of, kept_buffers, random_state
from skipgraph.verify.weights import nudged

_FACTOR = 4.0
_STEPS = 8.0  # units in the last place that are allowed anyway
_TRIALS = 3


@dataclass(frozen=True, slots=True)
class Errors:
    """The worst errors of both models, relative to the largest value of each output."""

    check: Check
    own: float
    original: float


def dtype_of(model: torch.nn.Module) -> torch.dtype | None:
    """The coarsest dtype of the weights; None if they are in float64, or there are none."""
    dtypes = {tensor.dtype for tensor in model.parameters() if tensor.is_floating_point()} - {torch.float64}
    return max(dtypes, key=lambda dtype: torch.finfo(dtype).eps, default=None)


def check_own_dtype(
    before: torch.nn.Module, after: torch.nn.Module, exact: torch.nn.Module, inputs: Inputs, seed: int, mode: str
) -> Errors:
    """Compare the outputs in the model's own dtype.

    The original's error in its dtype is the measure: the rewritten model's may be 4 times that, and 8 units in the
    last place. Where it is more, the original runs three times more with its weights one unit off, and the largest of
    its errors counts: a single number may be right by chance.

    Parameters
    ----------
    before, after : torch.nn.Module
        In their own dtype, and in the mode to be checked.
    exact : torch.nn.Module
        The original in float64, in the same mode.
    inputs : tuple
        In the dtypes of the examples.

    Raises
    ------
    RefusedError
        If the original does not run, overflows, or is random.
    VerificationError
    """
    dtype = dtype_of(before)
    assert dtype is not None
    label = f"{mode} mode, given weights, inputs {text_of(inputs)}, {str(dtype).removeprefix('torch.')}"
    try:
        place = device_of(exact)
        wanted = _outputs(exact, map_tensors(lambda tensor: double(tensor.to(place)), inputs), seed, in_double=True)
        theirs = _outputs(before, inputs, seed)
    except Exception as error:
        raise RefusedError(f"{label}: the original raises {first_line(error)}") from error
    if any(not torch.equal(tensor.isfinite(), wanted[name].isfinite()) for name, tensor in theirs.items()):
        raise RefusedError(f"{label}: the original overflows")
    try:
        ours = _outputs(after, inputs, seed)
    except Exception as error:
        raise VerificationError(f"the rewritten model raises {first_line(error)} ({label})") from error
    least = _STEPS * torch.finfo(dtype).eps
    own, original = _errors(ours, wanted), _errors(theirs, wanted)
    trial = 0
    while trial < _TRIALS and any(own[name] > _FACTOR * original[name] + least for name in wanted):
        trial += 1
        with nudged(before, trial), suppress(Exception):
            other = _errors(_outputs(before, inputs, seed), wanted)
            original = {name: max(error, other[name]) for name, error in original.items()}
    for name in wanted:
        if not own[name] <= (allowed := _FACTOR * original[name] + least):
            raise VerificationError(
                f"output {name}".rstrip() + f" of the rewritten model is off by {own[name]:.1e} of its largest value "
                f"in {str(dtype).removeprefix('torch.')}, the original's by {original[name]:.1e}, "
                f"and {allowed:.1e} is allowed ({label})",
                "Both agree in float64: rewrite fewer sites, or run the model in a finer dtype.",
            )
    worst = max(wanted, key=lambda name: own[name], default="")
    mine, its = own.get(worst, 0.0), original.get(worst, 0.0)
    name = str(dtype).removeprefix("torch.")
    check = Check(mode, "given", name, shapes(inputs), "outputs", len(wanted), mine, _FACTOR * its + least)
    return Errors(check, mine, its)


def _outputs(module: torch.nn.Module, inputs: Inputs, seed: int, *, in_double: bool = False) -> dict[str, torch.Tensor]:
    """Floating-point outputs in float64."""
    device = device_of(module)
    with exactly(double=in_double), torch.no_grad(), kept_buffers(module):
        torch.manual_seed(seed)
        before = random_state(device)
        args, kwargs = map_tensors(torch.Tensor.clone, inputs)
        outputs = dict(named_tensors(module(*args, **kwargs)))
        if not torch.equal(before, random_state(device)):
            raise RuntimeError("random numbers, which are others in another dtype")
    return {name: double(tensor.cpu()) for name, tensor in outputs.items() if tensor.is_floating_point()}


def _errors(outputs: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> dict[str, float]:
    errors = {}
    for name, exact in wanted.items():
        one = outputs.get(name)
        if one is None or one.shape != exact.shape or not torch.equal(one.isfinite(), exact.isfinite()):
            errors[name] = float("inf")
            continue
        finite = exact.isfinite()
        apart = float((one - exact)[finite].abs().max()) if bool(finite.any()) else 0.0
        errors[name] = apart / scale if (scale := size(exact)) else apart
    return errors
