"""The original and the rewritten model side by side: outputs, gradients and buffers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from skipgraph.capture.runnable import Captured
from skipgraph.passes.state_map import StateMap
from skipgraph.verify.inputs import Inputs
from skipgraph.verify.parts import Parts
from skipgraph.verify.result import Check, Verification
from skipgraph.verify.running import device_of
from skipgraph.verify.weights import check_fits, check_flags, refuse_infinite
from skipgraph.verify.whole import Whole

__all__ = ["Check", "Verification", "verify"]

_DEFAULT_SHARE = 0.4  # of the memory
_BYTES = 8  # of a number in float64


def verify(
    before: Captured,
    after: Captured,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    state_map: StateMap | None = None,
    *,
    seed: int = 0,
    modes: Sequence[bool] = (False, True),
    tolerance: float = 1e-10,
    memory_limit_bytes: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> Verification:
    """Show that ``after`` computes what ``before`` does.

    In float64, with dropout at zero, on random inputs that are others each time:

    =========  ==========================  ================================================================
    weights    mode                        inputs
    =========  ==========================  ================================================================
    given      the first of ``modes``      as the examples (in each mode, if no smaller size is taken)
    given      each of ``modes``           4 of a smaller spatial size
    redrawn    each of ``modes``           1 and 3 of the smaller size; 2 of an odd size, or one step larger
    =========  ==========================  ================================================================

    Each time all outputs, all buffers after the forward, and all gradients of inputs and parameters are compared
    (`skipgraph.verify.compare.compare` says how, and what is done about rounding). Then the outputs once in the
    model's own dtype. Sizes that the original does not take are left out, and said. A model that is too large for that
    is compared part by part, at the sizes of the examples (`skipgraph.verify.parts.Parts`).

    Parameters
    ----------
    before, after : Captured
        The original, and the rewritten model. Neither is changed.
    args, kwargs : tuple, dict
        Example inputs.
    state_map : StateMap
        How the tensors of ``after`` follow from those of ``before``.
    seed : int
    modes : sequence of bool
        ``training`` of the runs.
    tolerance : float
        Relative, in float64.
    memory_limit_bytes : int, optional
        What may be needed for both models in float64, as estimated; 40 % of the memory by default.
    progress : callable, optional
        Told of each run before it starts.

    Returns
    -------
    Verification

    Raises
    ------
    VerificationError
        Naming the run, the tensor, by how much it is off, and the first node at which the two part. Also if the
        forward draws random numbers beyond dropout, and draws otherwise in ``after``.
    WeightsError
        If a parameter is not finite: a rewrite is exact for finite values only.
    """
    started = time.perf_counter()
    state_map = state_map or StateMap()
    refuse_infinite(before)
    check_fits(before, after, state_map)
    check_flags(before, after, state_map)
    inputs: Inputs = (tuple(args), dict(kwargs or {}))
    device = device_of(before)
    limit = _memory(device) if memory_limit_bytes is None else memory_limit_bytes
    settings: dict[str, Any] = {
        "seed": seed, "modes": modes, "tolerance": tolerance, "progress": progress or _silent,
    }  # fmt: skip
    fits = estimated_bytes(before) <= limit
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        if fits:
            whole = Whole((before, after), inputs, state_map, **settings)
            try:
                whole.check()
            except (MemoryError, torch.OutOfMemoryError):
                fits = False
        if not fits:
            parts = Parts((before, after), inputs, state_map, **settings)
            parts.check()
    pair, errors = (whole.pair, whole.errors) if fits else (parts.pair, None)
    return Verification(
        checks=(*pair.checks, *([errors.check] if errors else [])),
        tolerance=tolerance,
        noise_floor=pair.noise_floor,
        own_error=errors.own if errors else None,
        original_error=errors.original if errors else None,
        by_parts=not fits,
        skipped=tuple(dict.fromkeys(pair.skipped)),
        seconds=time.perf_counter() - started,
    )


def _silent(text: str) -> None:
    pass


def estimated_bytes(model: Captured) -> int:
    """Memory for a verification in float64: weights and gradients of two models, and the activations of one run."""
    weights = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
    activations = 0
    for node in model.graphs[True].nodes:
        size = 1
        for extent in node.meta.get("shape", (0,)):
            size *= int(extent)
        activations += size
    return _BYTES * (4 * weights + activations)


def _memory(device: torch.device) -> int:
    """What may be used of the memory of ``device``, in bytes."""
    if device.type == "cuda":
        return int(_DEFAULT_SHARE * torch.cuda.mem_get_info(device)[1])
    try:
        return int(_DEFAULT_SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):  # not a POSIX system
        return int(_DEFAULT_SHARE * 2**34)
