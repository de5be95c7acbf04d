"""The checks of two whole models in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence

import torch

from skipgraph.capture.runnable import Captured
from skipgraph.capture.trees import map_tensors
from skipgraph.errors import VerificationError
from skipgraph.passes.state_map import StateMap
from skipgraph.verify.inputs import Inputs, Sizes, draw, others, smaller
from skipgraph.verify.own_dtype import Errors, check_own_dtype, dtype_of
from skipgraph.verify.pair import Pair, RefusedError, text_of
from skipgraph.verify.precision import double, exactly, make_double, without_dropout
from skipgraph.verify.running import device_of, kept_buffers
from skipgraph.verify.weights import carry, redraw

MODES = {False: "evaluation", True: "training"}


def own_copy(model: Captured, *, in_double: bool) -> Captured:
    """A copy whose tensors are its own, without gradients, on a device that the check can run on."""
    new = copy.deepcopy(model)
    for parameter in new.parameters():
        parameter.grad = None
    if in_double:
        if device_of(new).type == "mps":
            new.cpu()
        make_double(new)
        for parameter in new.parameters():
            parameter.requires_grad_(parameter.is_floating_point() or parameter.is_complex())
    return new


class Whole:
    """Both models as they are, at several sizes, in both modes, with given and with redrawn weights."""

    def __init__(
        self,
        models: tuple[Captured, Captured],
        inputs: Inputs,
        state_map: StateMap,
        *,
        seed: int,
        modes: Sequence[bool],
        tolerance: float,
        progress: Callable[[str], None],
    ) -> None:
        self._models = models
        self._inputs = inputs
        self._modes = modes
        self._seed = seed
        self._progress = progress
        before, after = (own_copy(model, in_double=True) for model in models)
        self._device = device_of(before)
        self.pair = Pair(
            before, after, lambda: (before.graphs[before.training], after.graphs[after.training]), state_map, tolerance
        )
        self.errors: Errors | None = None

    def check(self) -> None:
        """Make all checks.

        Raises
        ------
        VerificationError
        """
        pair = self.pair
        with without_dropout(pair.before, pair.after):
            small, other = self._other_sizes()
            for number, mode in enumerate(self._modes):
                self._set(mode)
                if number == 0 or not small:  # the examples' own sizes may be large
                    self._check("given", Sizes(), mode)
                self._check("given", Sizes(4, small), mode)
            self._own_dtype()
            redraw(pair.before, self._seed)
            carry(pair.before, pair.after, pair.state_map)
            for mode in self._modes:
                self._set(mode)
                for batch, sizes in ((1, small), (3, small), *([(3, other)] if other else [])):
                    self._check("redrawn", Sizes(batch, sizes), mode)
        if not pair.checks:
            reasons = "; ".join(dict.fromkeys(pair.skipped))
            raise VerificationError(
                f"nothing could be compared: {reasons}", "Give example inputs that the model takes."
            )

    def _set(self, mode: bool) -> None:
        self.pair.before.train(mode)
        self.pair.after.train(mode)

    def _check(self, weights: str, sizes: Sizes, mode: bool) -> None:
        seed = self._seed + len(self.pair.checks)  # other numbers each time
        inputs = map_tensors(double, draw(self._inputs, sizes, seed, self._device))
        self._progress(f"float64, {MODES[mode]}, {weights} weights, inputs {text_of(inputs)}")
        try:
            with exactly(double=True):
                self.pair.check(inputs, seed, MODES[mode], weights)
        except RefusedError as refused:
            self.pair.skipped.append(str(refused))

    def _other_sizes(self) -> tuple[dict[int, int], dict[int, int]]:
        """A smaller spatial size and another that the original takes in evaluation; empty for the examples' own."""
        small = self._accepted(smaller(self._inputs)) or {}
        other = self._accepted(others(self._inputs, small)) or {}
        if not small and not other:
            self.pair.skipped.append("other spatial sizes: the original takes none that were tried")
        return small, other

    def _accepted(self, candidates: Iterator[dict[int, int]]) -> dict[int, int] | None:
        model = self.pair.before.eval()
        for sizes in candidates:
            args, kwargs = map_tensors(double, draw(self._inputs, Sizes(None, sizes), self._seed, self._device))
            try:
                with exactly(double=True), torch.no_grad(), kept_buffers(model):
                    model(*args, **kwargs)
            except Exception:  # whatever the user's code raises at a size that it does not take
                continue
            return sizes
        return None

    def _own_dtype(self) -> None:
        if dtype_of(self._models[0]) is None:
            return
        mode = self._modes[0]
        self._set(mode)
        before, after = (own_copy(model, in_double=False).train(mode) for model in self._models)
        inputs = draw(self._inputs, Sizes(), self._seed, device_of(before))
        self._progress(
            f"{dtype_of(before)}, {MODES[mode]}, given weights, inputs {text_of(inputs)}".removeprefix("torch.")
        )
        try:
            with without_dropout(before, after):
                self.errors = check_own_dtype(before, after, self.pair.before, inputs, self._seed, MODES[mode])
        except RefusedError as refused:
            self.pair.skipped.append(str(refused))
