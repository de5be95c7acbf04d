"""Layers that were folded into others, against the original: outputs, with the given weights and with redrawn ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from skipgraph.capture.runnable import Captured
from skipgraph.capture.trees import map_tensors, tensors
from skipgraph.errors import VerificationError
from skipgraph.passes.state_map import StateMap
from skipgraph.verify.compare import distance, size
from skipgraph.verify.inputs import Sizes, draw
from skipgraph.verify.precision import double, without_dropout
from skipgraph.verify.weights import carry, redraw

Inputs = tuple[tuple[Any, ...], dict[str, Any]]
_TOLERANCE = 1e-9  # folding multiplies every weight by a scale, one rounding more than a verified rewrite has


def check_folded(
    original: Captured,
    algebra: Captured,
    inputs: Inputs,
    state_map: StateMap,
    fold: Callable[[Captured, Inputs], Captured],
    *,
    modes: Sequence[bool] = (False,),
    seed: int = 0,
) -> None:
    """Show in float64 that what ``fold`` makes of a rewritten model still has the original's outputs.

    Weights that are folded belong to no map of states: redrawn ones are given to the original, carried over to
    ``algebra``, and folded again. ``modes`` are those of training or not that are compared, with dropout at zero.

    Raises
    ------
    VerificationError
        Naming the weights, and by how much the outputs differ.
    """
    theirs, ours = original.copy().double().eval(), algebra.copy().double().eval()
    for weights in ("given", "redrawn"):
        if weights == "redrawn":
            redraw(theirs, seed)
        carry(theirs, ours, state_map)
        folded = fold(ours, map_tensors(double, inputs))
        for training in modes:
            wanted, given = _outputs(theirs.train(training), folded.train(training), inputs, seed)
            for a, b in zip(given, wanted, strict=True):
                error = distance(a, b)
                if error > _TOLERANCE * max(size(b), torch.finfo(torch.float64).tiny):
                    raise VerificationError(
                        f"with {weights} weights, the outputs are off by {error:.3g} once layers are folded, where the "
                        f"largest is {size(b):.3g}",
                        "Please report it; what is not folded was verified.",
                    )


def _outputs(theirs: Captured, ours: Captured, inputs: Inputs, seed: int) -> list[list[torch.Tensor]]:
    """What both make of the same random inputs, and of the same random numbers on the way."""
    device = next((tensor.device for tensor in theirs.parameters()), torch.device("cpu"))

    def run(batch: int | None) -> list[list[torch.Tensor]]:
        args, kwargs = map_tensors(double, draw(inputs, Sizes(batch), seed, device))
        found = []
        for model in (theirs, ours):
            with torch.random.fork_rng(devices=[]), torch.no_grad(), without_dropout(model):
                torch.manual_seed(seed)
                found.append(list(tensors(model(*args, **kwargs))))
        return found

    try:
        return run(None)
    except ValueError:  # one sample, of which a norm in training takes no statistics
        return run(2)
