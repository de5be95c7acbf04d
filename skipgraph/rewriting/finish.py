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
    sources = result.compressed.sources if result.compressed is not None else frozenset()

    def fold(model: Captured, inputs: Inputs) -> Captured:
        new = model.copy()
        folded(new, paths, sources)
        return for_inference(new, inputs) if inference else new

    if not paths and not inference:
        return
    tell("folding")
    algebra, new = result.model, result.model.copy()
    folds = folded(new, paths, sources)
    result.model = for_inference(new, result.inputs) if inference else new
    result.after = drawn(result.model, result.inputs)
    result.plan = replace(result.plan, folds=folds, options={**result.plan.options, "inference": inference})
    if verified:
        modes = (False,) if inference else result.reference.modes
        check_folded(result.reference, algebra, result.inputs, result.plan.state_map, fold, modes=modes, seed=seed)
