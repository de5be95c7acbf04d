"""What `benchmarks/zoo.py` does with one model, in a process of its own; each stage returns a record."""

from __future__ import annotations

import re
import time
import tomllib
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import fx, nn
from zoo_lists import LISTS, Entry
from zoo_replay import replayed

import skipgraph as sg
from skipgraph.capture.substitution import borrowed, to_meta
from skipgraph.capture.trees import map_tensors, tensors
from skipgraph.errors import SkipgraphError
from skipgraph.rewriting import planned
from skipgraph.rewriting.capturing import captured as captured_in_modes
from skipgraph.sources.inputs import as_example
from skipgraph.sources.torchvision_operators import declare_missing
from skipgraph.verify import verify

MOST_FLOPS = 3e8  # of a model that is verified as a whole; a larger one is verified part by part

Record = dict[str, Any]
Inputs = tuple[tuple[Any, ...], dict[str, Any]]


def prepare() -> None:
    """Import what the models need, once for all processes."""
    declare_missing()
    for path in LISTS.glob("*.toml"):
        with suppress(Exception):  # a library that is not there is met again by its models
            exec(tomllib.loads(path.read_text()).get("imports", ""), {})


def run_stage(stage: str, entry: Entry) -> Record:
    """Build a model and put it through one stage; ``status`` says how that went.

    An error of skipgraph's own is an answer. Anything else that it raises would reach the user as a traceback.
    """
    torch.set_num_threads(1)
    declare_missing()
    try:
        model, inputs = entry.model(), as_example(entry.example())
    except Exception as error:
        return {"status": "not built", "reason": words(error)}
    began = time.perf_counter()
    try:
        record = STAGES[stage](model, inputs)
    except SkipgraphError as error:
        record = {"status": "refused" if runs(model, inputs) else "does not run", "reason": words(error)}
    except Exception as error:
        record = {"status": "raised" if runs(model, inputs) else "does not run", "reason": words(error)}
    return {"seconds": round(time.perf_counter() - began, 2), **record}


def runs(model: nn.Module, inputs: Inputs) -> bool:
    """Whether a model runs at all, with its data."""
    try:
        with torch.no_grad():
            model(*inputs[0], **inputs[1])
    except Exception:
        return False
    return True


def words(error: BaseException) -> str:
    """The first line of what an error says."""
    lines = str(getattr(error, "message", error)).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]


def inspected(model: nn.Module, inputs: Inputs) -> Record:
    """Capture, detection and cost, beside one forward on meta tensors."""
    began = time.perf_counter()
    example = inputs[1] if inputs[1] else inputs[0]
    found = sg.inspect(model, example)
    seconds = time.perf_counter() - began
    counts, cost = found.graph.counts, found.graph.cost
    return {
        "status": "opaque" if found.opaque else found.method,
        "reason": "; ".join(f"{path}: {why}" for path, why in found.opaque)[:300],
        "opaque": len(found.opaque),
        "seconds": round(seconds, 2),
        "meta_seconds": meta_seconds(model, inputs),
        "nodes": found.graph.number_of_nodes(),
        "skips": counts.skips,
        "add": counts.add,
        "concat": counts.concat,
        "long": counts.long,
        "concats": sum(merge.kind == "concat" for merge in found.graph.merges),
        "flops": cost.flops,
        "unpriced": dict(cost.unpriced_operators),
    }


def meta_seconds(model: nn.Module, inputs: Inputs) -> float | None:
    """One plain forward on meta tensors; None if the model cannot be run so."""
    try:
        with borrowed(model, to_meta, training=False), torch.no_grad():
            args, kwargs = map_tensors(to_meta, inputs)
            began = time.perf_counter()
            model(*args, **kwargs)
            return round(time.perf_counter() - began, 3)
    except Exception:
        return None


def rerun(model: nn.Module, inputs: Inputs) -> Record:
    """The captured model on real tensors beside the original, from one seed; evaluation alone if training is refused.

    What cannot be captured as a module that runs is run operator by operator, as inspection recorded it.
    """
    try:
        captured = captured_in_modes(model, inputs, inference=True)
    except SkipgraphError as error:
        return {"way": "operators", "note": words(error), **replay(model, inputs)}
    return {
        "way": "module" if len(captured.modes) > 1 else "evaluation",
        "nodes": len(captured.graphs[False].nodes),
        "fixed": list(captured.fixed_sizes),
        **alike(captured, model, inputs),
    }


def replay(model: nn.Module, inputs: Inputs) -> Record:
    """The operators that inspection recorded, on real tensors, beside the original."""
    pairs, ends = replayed(model, inputs)
    return {"ends": ends, **compared(*zip(*pairs, strict=True))} if pairs else {"status": "nothing", "ends": ends}


def symbolic(model: nn.Module, inputs: Inputs) -> Record:
    """Plain ``torch.fx.symbolic_trace``."""
    return alike(fx.symbolic_trace(model), model, inputs)


def exported(model: nn.Module, inputs: Inputs) -> Record:
    """Plain ``torch.export.export``."""
    with torch.no_grad():
        program = torch.export.export(model, *inputs)
    return {"nodes": len(program.graph.nodes), **alike(program.module(), model, inputs)}


def alike(made: nn.Module, model: nn.Module, inputs: Inputs) -> Record:
    """Whether ``made`` computes what ``model`` does: to the last bit, up to rounding, or not."""
    results = []
    for one in (model, made):
        torch.manual_seed(1)
        args, kwargs = map_tensors(torch.clone, inputs)
        with torch.no_grad():
            results.append([tensor.detach() for tensor in tensors(one(*args, **kwargs))])
    return compared(*results)


def compared(theirs: Sequence[torch.Tensor], ours: Sequence[torch.Tensor]) -> Record:
    """How far two lists of tensors are apart."""
    if [tensor.shape for tensor in ours] != [tensor.shape for tensor in theirs]:
        return {"status": "wrong", "reason": f"{len(ours)} tensors of other shapes than the original's {len(theirs)}"}
    difference = max((furthest(a, b) for a, b in zip(ours, theirs, strict=True)), default=0.0)
    status = "same" if difference == 0 else "close" if difference < 1e-4 else "wrong"
    return {"status": status, "difference": difference}


def furthest(mine: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference in parts of the largest value."""
    if mine.numel() == 0 or torch.equal(mine, other):
        return 0.0
    a, b = (torch.view_as_real(one) if one.is_complex() else one for one in (mine, other))
    a, b = a.double().nan_to_num(), b.double().nan_to_num()
    return float((a - b).abs().max() / b.abs().max().clamp(min=1e-30))


def rewritten(model: nn.Module, inputs: Inputs) -> Record:
    """The exact ``concat_to_sum`` of every skip that it can be done to, verified."""
    example = inputs[1] if inputs[1] else inputs[0]
    result = planned(model, example, sg.ConcatToSum(), execution="separate")
    outcomes = result.plan.outcomes
    counts = Counter(outcome.status for outcome in outcomes)
    record: Record = {
        "status": "nothing",
        **{status: counts[status] for status in ("rewritten", "refused", "kept")},
        "reasons": dict(Counter(normalised(outcome) for outcome in outcomes if outcome.status == "refused")),
    }
    if not counts["rewritten"]:
        return record
    # A whole comparison runs both models a dozen times in float64, forward and backward.
    limit = {"memory_limit_bytes": 0} if result.before.cost.flops > MOST_FLOPS else {}
    try:
        checked = verify(result.reference, result.model, *result.inputs, result.plan.state_map, **limit)
    except Exception as error:
        return record | {"status": "unverified", "reason": words(error)}
    parts = {"by_parts": checked.by_parts, "skipped": list(checked.skipped)}
    return record | {"status": "verified", "error": checked.worst, **parts}


def normalised(outcome: Any) -> str:
    """A reason without the names and numbers of one model."""
    text = outcome.reason
    for name in sorted({outcome.node, outcome.id} - {""}, key=len, reverse=True):
        text = text.replace(name, "‹node›")
    text = re.sub(r"\b[\w]+(\.[\w]+)+\b", "‹node›", text)
    return re.sub(r"\d+(, \d+)*", "‹n›", text)


STAGES = {
    "capture": inspected,
    "rerun": rerun,
    "replay": replay,
    "fx": symbolic,
    "export": exported,
    "rewrite": rewritten,
}
