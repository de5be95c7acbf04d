"""The ways back from a rewritten model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from skipgraph.capture import Captured
from skipgraph.compress.reverse import rejoined, unplaced, whole_again
from skipgraph.errors import PlanError
from skipgraph.passes.fx_undo import undo as undone
from skipgraph.passes.record import ConcatRecord
from skipgraph.plan import Plan, fingerprint
from skipgraph.sources.weights import load_weights


def undo(model: Captured, plan: Plan, *, weights: Mapping[str, Tensor] | Path | None = None) -> Captured:
    """The original of a rewritten model, from the weights that it has now.

    The algebra is read from right to left; nothing is taken from a stored copy. Where layers were factored, they are
    whole again with the original's weights, which have to be given.

    Parameters
    ----------
    model : Captured
        Rewritten; it is left as it is.
    plan : Plan
        By which it was.
    weights : dict or Path, optional
        The original's state, or a file with it, for a plan that factors layers.

    Raises
    ------
    PlanError
        If the model does not have the sites of the plan.
    WeightsError
        If the weights are not of the original.
    """
    _not_for_inference(plan)
    if bool(plan.factors) != (weights is not None):
        raise PlanError(
            "layers were factored, which loses what they were" if plan.factors else "no layer was factored",
            "Give the original's weights; or --projected, for concats of what is projected."
            if plan.factors
            else "The original's weights follow from those that the model has: give no others.",
        )
    if weights is None:
        return undone(model, plan.records)
    new = model.copy()
    unplaced(new, [one.path for one in plan.factors], plan.folds)
    new = undone(new, plan.records)
    whole_again(new, {one.path: (one.form, one.bias) for one in plan.factors})
    if fingerprint(new) != plan.fingerprint:
        raise PlanError("the model is not what the plan has made", "Give the directory as it was emitted.")
    load_weights(new, weights)
    return new


def rejoin(model: Captured, plan: Plan) -> Captured:
    """The rewritten model with concats of what is projected in the place of sums of it.

    Each layer behind is as many times as wide as there are operands, and its parts are equal at first: it computes the
    same, and may then be trained to do more.

    Raises
    ------
    PlanError
        If no sum of projections is in the plan, or the model does not have them.
    """
    _not_for_inference(plan)
    paths = {f"{one.path}.project": one.path for one in plan.factors}
    records = [one for one in plan.records[False] if isinstance(one, ConcatRecord)]
    found = {
        paths[step.module]: record
        for record in records for step in record.steps if step.law == "split" and step.module in paths
    }  # fmt: skip
    if not found:
        raise PlanError("the plan has no sum of projections", "Give one that was made with a rank, error or budget.")
    new = model.copy()
    counts = {path: len(record.widths) for path, record in found.items()}
    rejoined(new, counts, {path: record.axis for path, record in found.items()})
    return new


def _not_for_inference(plan: Plan) -> None:
    if plan.options["inference"]:
        raise PlanError(
            "the model was rewritten for inference: its batch norms are folded into the weights for good",
            "Rewrite without --inference what is to be undone.",
        )
