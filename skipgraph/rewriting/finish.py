"""What is folded at the end, which no map of states can say: projections and norms into layers."""

from __future__ import annotations

from dataclasses import replace

from skipgraph.capture import Captured
from skipgraph.compress.placing import folded
from skipgraph.passes.inference import for_inference
from skipgraph.passes.workbench import Inputs, drawn
from skipgraph.rewriting.result import Progress, Rewritten
from skipgraph.verify.folded import check_folded


def finish(result: Rewritten, *, inference: bool, verified: bool, seed: int, tell: Progress) -> None:
    """Fold projections and norms into layers, which no map of states can say."""
    paths = [one.path for one in result.plan.factors]

    def fold(model: Captured, inputs: Inputs) -> Captured:
        new = model.copy()
        folded(new, paths)
        return new

    if paths:
        algebra, result.model = result.model, result.model.copy()
        result.plan = replace(result.plan, folds=folded(result.model, paths))
        result.after = drawn(result.model, result.inputs)
        if verified:
            check_folded(
                result.reference, algebra, result.inputs, result.plan.state_map, fold, modes=(False, True), seed=seed
            )
    if inference:
        tell("folding for inference")
        _infer(result, verified=verified, seed=seed)


def _infer(result: Rewritten, *, verified: bool, seed: int) -> None:
    """Put the form for inference in the place of the rewritten model."""
    algebra = result.model
    result.model = for_inference(algebra, result.inputs)
    result.after = drawn(result.model, result.inputs)
    result.plan = replace(result.plan, options={**result.plan.options, "inference": True})
    if verified and not result.plan.factors:
        check_folded(result.original, algebra, result.inputs, result.plan.state_map, for_inference, seed=seed)
