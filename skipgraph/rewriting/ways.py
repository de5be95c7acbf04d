"""The whole way from a model to a rewritten one: capture, find, plan, apply, verify."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from skipgraph.capture import Captured
from skipgraph.compress import look
from skipgraph.compress.candidates import noise
from skipgraph.compress.trade_off import Point
from skipgraph.compress.trade_off import trade_off as points
from skipgraph.errors import CaptureError, NothingToRewriteError, PlanError, UsageError
from skipgraph.graph import SkipGraph
from skipgraph.ops import Kind
from skipgraph.passes import ConcatToSum, SumToConcat
from skipgraph.passes.record import Record
from skipgraph.passes.slices import read_off_operands
from skipgraph.passes.workbench import Inputs, drawn
from skipgraph.plan import Plan, fingerprint
from skipgraph.rewriting.capturing import captured
from skipgraph.rewriting.exact import made_exactly
from skipgraph.rewriting.factored import Lossy, layers_of, made_factored, totals
from skipgraph.rewriting.finish import finish
from skipgraph.rewriting.result import Execution, Progress, Rewrite, Rewritten, Wanted
from skipgraph.sources.inputs import as_example
from skipgraph.verify import verify


def rewrite(
    model: torch.nn.Module,
    example_inputs: Any,
    rewrite: Rewrite,
    *,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    execution: Execution = "model",
    inference: bool = False,
    calibrate: Iterable[Any] | None = None,
    verified: bool = True,
    seed: int = 0,
    progress: Progress | None = None,
) -> Rewritten:
    """Rewrite the skips of a model, and prove that it still computes the same.

    With a rank, an error or a budget it computes the same as the model with factored layers, which is proved, and
    approximates the original, which is measured.

    Parameters
    ----------
    model : torch.nn.Module
        With its weights; it is not changed.
    example_inputs : tuple, list, dict or tensor
        Positional inputs, keyword inputs, or the only input.
    rewrite : ConcatToSum or SumToConcat
        What to do.
    only, skip : sequence of str
        Patterns over ids of skips and merges and over module paths: see `skipgraph.plan.selected`.
    execution : str
        ``"separate"`` takes every concat away that can go; ``"model"`` those that are worth it by a model of cost:
        see `skipgraph.passes.choose`; ``"measured"`` those that are by the time that their calls take here.
    inference : bool
        Make a model that only infers: see `skipgraph.passes.inference.for_inference`.
    calibrate : iterable, optional
        Batches of the model's inputs, to factor layers by: see `skipgraph.compress.data.Calibration`.
    verified : bool
        Compare both models: see `skipgraph.verify.verify`.
    seed : int
        Of the inputs and weights that they are compared at.
    progress : callable, optional
        Told of what is being done.

    Returns
    -------
    Rewritten

    Raises
    ------
    CaptureError
        If the model cannot be captured.
    NothingToRewriteError
        If a pattern matches nothing, or nothing can be rewritten.
    VerificationError
        If the rewritten model computes anything else.
    BudgetError
        If a budget cannot be met.

    Examples
    --------
    >>> import skipgraph, torch
    >>> class Joining(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.a, self.b = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Conv2d(11, 4, 1)
    ...
    ...     def forward(self, x):
    ...         return self.b(torch.cat([x, self.a(x).relu()], 1))
    >>> result = skipgraph.rewrite(Joining(), torch.randn(1, 3, 8, 8), skipgraph.ConcatToSum())
    >>> result.after.counts.concat, list(result.model.state_dict())[2:]
    (0, ['b.0.weight', 'b.0.bias', 'b.1.weight'])
    """
    tell = progress or _ignore
    inputs = as_example(example_inputs)
    _check_inference(model, inference)
    tell("capturing")
    original = captured(model, inputs, inference=inference)
    tell("rewriting")
    result = _made(model, original, inputs, rewrite, Wanted(only, skip, execution), Lossy(calibrate, seed, tell))
    if not any(outcome.status == "rewritten" for outcome in result.plan.outcomes) and result.compressed is None:
        reasons = list(dict.fromkeys(outcome.reason for outcome in result.plan.outcomes))
        told = "; ".join(reasons[:3]) + ("; …" if len(reasons) > 3 else "")
        could = any(outcome.status == "kept" for outcome in result.plan.outcomes)
        raise NothingToRewriteError(
            f"nothing to rewrite: {told or 'the model has no skip of that kind'}",
            "Give --execution separate to rewrite it all the same."
            if could
            else "See all merges and reasons with --dry-run, or by skipgraph inspect --what-if.",
        )
    if verified:
        args, kwargs = inputs
        result.verification = verify(
            result.reference, result.model, args, kwargs, result.plan.state_map,
            seed=seed, modes=original.modes, progress=tell,
        )  # fmt: skip
    finish(result, inference=inference, verified=verified, seed=seed, tell=tell)
    return result


def planned(
    model: torch.nn.Module,
    example_inputs: Any,
    rewrite: Rewrite,
    *,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    execution: Execution = "model",
    inference: bool = False,
    calibrate: Iterable[Any] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Rewritten:
    """What `rewrite` would do, unverified, whether or not there is anything to rewrite."""
    inputs, tell = as_example(example_inputs), progress or _ignore
    _check_inference(model, inference)
    wanted, lossy = Wanted(only, skip, execution), Lossy(calibrate, seed, tell)
    original = captured(model, inputs, inference=inference)
    result = _made(model, original, inputs, rewrite, wanted, lossy)
    finish(result, inference=inference, verified=False, seed=seed, tell=tell)
    return result


def trade_off(
    model: torch.nn.Module,
    example_inputs: Any,
    rewrite: ConcatToSum,
    *,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    calibrate: Iterable[Any] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Point]:
    """What error fewer multiply-adds would cost, as predicted; nothing is rewritten.

    ``also`` and ``method`` of ``rewrite`` say which layers may be factored, and by what; the other parameters are those
    of `rewrite`.
    """
    inputs, tell = as_example(example_inputs), progress or _ignore
    original = captured(model, inputs)
    before = drawn(original, inputs)
    layers = layers_of(original, inputs, before, Wanted(only, skip), rewrite, Lossy(calibrate, seed, tell))
    if not layers:
        raise NothingToRewriteError("no layer can be factored", "See why by skipgraph rewrite --dry-run.")
    method: Any = rewrite.method or ("svd" if calibrate is None else "moments")
    looked = look(original, layers, inputs, calibrate, method=method, seed=seed, tell=tell)
    return points(looked.bench, layers, looked.data or noise(inputs, seed), totals(before), tell)


def _made(
    model: torch.nn.Module,
    original: Captured,
    inputs: Inputs,
    rewrite: Rewrite,
    wanted: Wanted,
    lossy: Lossy,
    records: Mapping[bool, tuple[Record, ...]] | None = None,
) -> Rewritten:
    """In the way that leaves the fewest concats, or that has the ``records`` of a plan."""
    as_it_runs = drawn(model, inputs)
    if isinstance(rewrite, ConcatToSum) and not rewrite.is_exact:
        with torch.random.fork_rng(devices=[]):  # layers that are made draw weights
            return made_factored(original, inputs, rewrite, wanted, as_it_runs=as_it_runs, lossy=lossy)
    if not isinstance(rewrite, ConcatToSum):
        return made_exactly(original, inputs, rewrite, wanted, as_it_runs=as_it_runs)
    results = []
    for read in _ways_to_read(original, inputs, wanted):
        try:
            results.append(made_exactly(read, inputs, rewrite, wanted, as_it_runs=as_it_runs))
        except (CaptureError, NothingToRewriteError):  # the original's own way is the first, and always there
            if read is original:
                raise
    best = min(results, key=lambda result: _concats(result.after))
    chosen = next((result for result in results if result.plan.records == records), best)
    chosen.reference = original
    return chosen


def _ways_to_read(original: Captured, inputs: Inputs, wanted: Wanted) -> list[Captured]:
    """The model as it is, with slices of concats read off their operands, and with new concats for some.

    Where patterns choose, ids have to be those that inspection shows: as it is alone.
    """
    if any(pattern != "*" for pattern in (*wanted.only, *wanted.skip)):
        return [original]
    ways = [original, read_off_operands(original, inputs)]
    if ways[1] is not original:
        ways.append(read_off_operands(original, inputs, joining=True))
    return list({"".join(map(str, way.unlike_graphs())): way for way in reversed(ways)}.values())[::-1]


def _concats(graph: SkipGraph) -> int:
    return sum(attributes["kind"] == Kind.CONCAT.value for _, attributes in graph.nodes(data=True))


def apply(
    model: torch.nn.Module,
    example_inputs: Any,
    plan: Plan,
    *,
    calibrate: Iterable[Any] | None = None,
    verified: bool = True,
) -> Rewritten:
    """Rewrite another checkpoint of the same architecture as a plan says.

    Layers that the plan factors are factored anew, in the same form and rank.

    Raises
    ------
    PlanError
        If the plan was made for another model.
    """
    if fingerprint(model) != plan.fingerprint:
        raise PlanError(
            "the plan was made for another model: names, shapes or dtypes of the tensors differ",
            "Give the model that it was made for, with any of its checkpoints.",
        )
    if calibrate is None and any(one.measured is not None for one in plan.factors):
        raise PlanError("the plan's layers were factored with calibration data", "Give such data again: --calibrate.")
    options = dict(plan.options)
    execution, inference, seed = (options.pop(name) for name in ("execution", "inference", "seed"))
    chosen = frozenset(outcome.id for outcome in plan.outcomes if outcome.status == "rewritten")
    kind: Any = ConcatToSum if plan.rewrite == ConcatToSum.name else SumToConcat
    options = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
    inputs = as_example(example_inputs)
    lossy = Lossy(calibrate, seed, _ignore, {one.path: (one.form, one.rank) for one in plan.factors})
    wanted = Wanted(execution=execution, exactly=chosen)
    original = captured(model, inputs, inference=inference)
    result = _made(model, original, inputs, kind(**options), wanted, lossy, plan.records)
    if result.plan.records != plan.records:
        raise PlanError("the plan does not fit: the model's forward is another one", "Rewrite the model anew.")
    if verified:
        result.verification = verify(
            result.reference, result.model, *inputs, result.plan.state_map, modes=original.modes
        )
    finish(result, inference=inference, verified=verified, seed=seed, tell=_ignore)
    return result


def _check_inference(model: torch.nn.Module, inference: bool) -> None:
    if inference and isinstance(model, Captured) and model.is_source:
        raise UsageError(
            "an ONNX file is for inference already", "Leave --inference out: runtimes fold norms themselves."
        )


def _ignore(text: str) -> None:
    """Nobody wants to be told."""
