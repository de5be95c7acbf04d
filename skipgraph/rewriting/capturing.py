"""A model captured for a rewrite: in the modes, and with the samples, that it can be."""

from __future__ import annotations

import torch

from skipgraph.capture import Captured, runnable
from skipgraph.capture.trees import doubled
from skipgraph.errors import CaptureError
from skipgraph.passes.workbench import Inputs


def captured(model: torch.nn.Module, inputs: Inputs, *, inference: bool | None = None) -> Captured:
    """A model captured in both modes; in evaluation alone if it is for ``inference`` and there is no other way.

    None says that nobody may choose.

    Raises
    ------
    CaptureError
        If it cannot be captured. Where evaluation can, the remedy says so.
    """
    try:
        return _in_both_modes(model, inputs)
    except CaptureError as error:
        if inference is None:
            raise
        try:
            alone = runnable(model, *inputs, modes=(False,))
        except CaptureError:
            raise error from None
        if inference:
            return alone
        raise CaptureError(
            f"in training, {error.message}",
            f"{error.remedy} A rewrite for inference alone does without training: --inference.",
        ) from error


def _in_both_modes(model: torch.nn.Module, inputs: Inputs) -> Captured:
    """With two samples where a batch norm cannot train on the one that is given."""
    try:
        return runnable(model, *inputs)
    except CaptureError as error:
        two = doubled(inputs)
        if two is None:
            raise
        try:
            return runnable(model, *two)
        except CaptureError:  # the user gave one sample
            raise error from None
