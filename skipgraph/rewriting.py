"""The whole way from a model to a rewritten one: capture, find, plan, apply, verify."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import torch

from skipgraph.capture import Captured, runnable
from skipgraph.capture.trees import map_tensors, tensors
from skipgraph.compress import Asked, Compressed, compress, look
from skipgraph.compress.candidates import noise
from skipgraph.compress.factor import Form
from skipgraph.compress.placing import folded, moved
from skipgraph.compress.sites import Layer, at_concats, others
from skipgraph.compress.trade_off import Point
from skipgraph.compress.trade_off import trade_off as points
from skipgraph.errors import CaptureError, NothingToRewriteError, PlanError, UsageError
from skipgraph.graph import SkipGraph
from skipgraph.passes import ConcatToSum, Match, Refusal, SumToConcat
from skipgraph.passes.choose import level_bytes, modelled
from skipgraph.passes.concat_site import Site as ConcatSite
from skipgraph.passes.fx_undo import undo as undone
from skipgraph.passes.inference import for_inference
from skipgraph.passes.measure import site_seconds
from skipgraph.passes.record import Record
from skipgraph.passes.workbench import Inputs, Workbench, drawn
from skipgraph.plan import Outcome, Plan, fingerprint, selected
from skipgraph.sources.inputs import as_example
from skipgraph.verify import Verification, verify
from skipgraph.verify.folded import check_folded

Execution = Literal["model", "measured", "separate"]
Rewrite = ConcatToSum | SumToConcat
Progress = Callable[[str], None]


@dataclass(slots=True)
class Rewritten:
    """A rewritten model, and everything that a report tells of it.

    Attributes
    ----------
    model : Captured
        An ordinary module with tensors of its own: it runs, trains, and can be saved.
    original : Captured
        The original, captured; it shares its tensors with the user's model.
    plan : Plan
        What was done.
    as_it_runs : SkipGraph
        The graph of the user's own model in evaluation, priced.
    before, after : SkipGraph
        The graphs of ``original`` and ``model``, each tensor freed at its last use: what differs between them is due
        to the rewrite alone.
    verification : Verification or None
        What was compared; None if it was not asked for.
    inputs : tuple
        The example inputs.
    reference : Captured
        What ``model`` was proved to compute: the original, or, where layers were factored, the original with pairs of
        layers in their place.
    compressed : Compressed or None
        What was factored, with what error; None for an exact rewrite.
    """

    model: Captured
    original: Captured
    plan: Plan
    as_it_runs: SkipGraph
    before: SkipGraph
    after: SkipGraph
    verification: Verification | None
    inputs: Inputs
    reference: Captured
    compressed: Compressed | None = None

    def undo(self) -> Captured:
        """The original again, by the algebra and from the weights that ``model`` has now."""
        return undo(self.model, self.plan)


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
    tell("capturing")
    original = captured(model, inputs)
    tell("rewriting")
    lossy = _Lossy(calibrate, seed, tell)
    result = _planned(model, original, inputs, rewrite, only, skip, execution, lossy=lossy)
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
            result.reference, result.model, args, kwargs, result.plan.state_map, seed=seed, progress=tell
        )
    _finish(result, inference=inference, verified=verified, seed=seed, tell=tell)
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
    lossy = _Lossy(calibrate, seed, tell)
    result = _planned(model, captured(model, inputs), inputs, rewrite, only, skip, execution, lossy=lossy)
    _finish(result, inference=inference, verified=False, seed=seed, tell=tell)
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
    chosen, _ = selected(rewrite.find(before), before, only, skip, skips_only=True)
    layers = _layers(original, before, chosen, rewrite)
    if not layers:
        raise NothingToRewriteError("no layer can be factored", "See why by skipgraph rewrite --dry-run.")
    method: Any = rewrite.method or ("svd" if calibrate is None else "moments")
    looked = look(original, layers, inputs, calibrate, method=method, seed=seed, tell=tell)
    return points(looked.bench, layers, looked.data or noise(inputs, seed), _totals(before), tell)


def _totals(graph: SkipGraph) -> dict[str, float]:
    return {"flops": graph.cost.flops, "parameters": graph.cost.parameters}


def captured(model: torch.nn.Module, inputs: Inputs) -> Captured:
    """A model captured in both modes; with two samples where a batch norm cannot train on the one that is given."""
    args, kwargs = inputs
    try:
        return runnable(model, args, kwargs)
    except CaptureError:
        if any(tensor.dim() == 0 or tensor.shape[0] != 1 for tensor in tensors(inputs)):
            raise
        args, kwargs = map_tensors(lambda tensor: torch.cat([tensor, tensor]), inputs)
        return runnable(model, args, kwargs)


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
    execution, inference = options.pop("execution"), options.pop("inference")
    chosen = {outcome.id for outcome in plan.outcomes if outcome.status == "rewritten"}
    kind: Any = ConcatToSum if plan.rewrite == ConcatToSum.name else SumToConcat
    options = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
    inputs = as_example(example_inputs)
    lossy = _Lossy(calibrate, 0, _ignore, {one.path: (one.form, one.rank) for one in plan.factors})
    result = _planned(
        model, captured(model, inputs), inputs, kind(**options), (), (), execution, exactly=chosen, lossy=lossy
    )
    if result.plan.records != plan.records:
        raise PlanError("the plan does not fit: the model's forward is another one", "Rewrite the model anew.")
    if verified:
        result.verification = verify(result.reference, result.model, *inputs, result.plan.state_map)
    _finish(result, inference=inference, verified=verified, seed=0, tell=_ignore)
    return result


def undo(model: Captured, plan: Plan) -> Captured:
    """The original of a rewritten model, from the weights that it has now.

    The algebra is read from right to left; nothing is taken from a stored copy.

    Raises
    ------
    PlanError
        If the model does not have the sites of the plan.
    """
    if plan.options["inference"]:
        raise PlanError(
            "the model was rewritten for inference: its batch norms are folded into the weights for good",
            "Rewrite without --inference what is to be undone.",
        )
    if plan.factors:
        raise PlanError(
            "layers were factored, which loses what they were", "Take the original from where its weights are."
        )
    return undone(model, plan.records)


def _planned(
    model: torch.nn.Module, original: Captured, inputs: Inputs, rewrite: Rewrite, only: Sequence[str],
    skip: Sequence[str], execution: Execution, *, lossy: _Lossy, exactly: set[str] | None = None,
    always: Collection[str] = (),
) -> Rewritten:  # fmt: skip
    if isinstance(rewrite, ConcatToSum) and not rewrite.is_exact:
        return _factored(model, original, inputs, rewrite, only, skip, execution, lossy, exactly)
    if execution not in get_args(Execution):
        raise UsageError(f"unknown execution {execution!r}", f"Use one of: {', '.join(get_args(Execution))}.")
    before = drawn(original, inputs)
    found = rewrite.find(before)
    chosen, left = selected(found, before, only, skip, skips_only=isinstance(rewrite, ConcatToSum))
    if exactly is not None:
        chosen, left = [one for one in found if one.merge.id in exactly], []
    if exactly is None:
        chosen += _joining(chosen, [one for one in found if one.merge.id not in {out.id for out in left}])
    ids = {one.merge.id for one in chosen}
    kept: dict[str, str] = {}
    result = _applied(original, inputs, rewrite, ids, kept)
    sites = [one for one in chosen if isinstance(one, ConcatSite) and one.merge.id not in always]
    if execution != "separate" and exactly is None and sites:
        kept = _kept(sites, before, result[1], original, result[0] if execution == "measured" else None)
        if kept:
            result = _applied(original, inputs, rewrite, ids, kept)
    bench, after, records, refused = result
    outcomes = [*left, *(_outcome(one, rewrite, kept, refused) for one in chosen)]
    order = {merge.id: place for place, merge in enumerate(before.merges)}
    plan = Plan(
        rewrite.name,
        _options(rewrite, execution),
        fingerprint(original),
        records,
        bench.surgery.state_map,
        tuple(sorted(outcomes, key=lambda outcome: order[outcome.id])),
    )
    return Rewritten(bench.captured, original, plan, drawn(model, inputs), before, after, None, inputs, original)


@dataclass(frozen=True, slots=True)
class _Lossy:
    """What factoring layers takes."""

    data: Iterable[Any] | None
    seed: int
    tell: Progress
    exactly: Mapping[str, tuple[Form, int]] | None = None


def _factored(
    model: torch.nn.Module, original: Captured, inputs: Inputs, rewrite: ConcatToSum, only: Sequence[str],
    skip: Sequence[str], execution: Execution, lossy: _Lossy, exactly: set[str] | None,
) -> Rewritten:  # fmt: skip
    """Layers are factored first; then the concats that they read are taken apart, exactly."""
    before = drawn(original, inputs)
    chosen, _ = selected(rewrite.find(before), before, only, skip, skips_only=True)
    compressed = compress(
        original, _layers(original, before, chosen, rewrite), _asked(rewrite, lossy), inputs, lossy.data,
        totals=_totals(before), seed=lossy.seed, tell=lossy.tell,
    )  # fmt: skip
    exact = _planned(
        model, compressed.model, inputs, ConcatToSum(), only, skip, execution, lossy=lossy, exactly=exactly,
        always={one.merge for one in compressed.layers if one.merge is not None},
    )  # fmt: skip
    moved(exact.model, [one.path for one in compressed.layers])
    plan = replace(
        exact.plan,
        options=_options(rewrite, execution),
        fingerprint=fingerprint(original),
        factors=compressed.layers,
    )
    after = drawn(exact.model, inputs)
    return replace(exact, original=original, plan=plan, before=before, after=after, compressed=compressed)


def _options(rewrite: Rewrite, execution: Execution) -> dict[str, Any]:
    """What was asked for, as JSON has it."""
    given = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(rewrite).items()}
    return {**given, "execution": execution, "inference": False}


def _layers(
    original: Captured, before: SkipGraph, chosen: Sequence[Match | Refusal], rewrite: ConcatToSum
) -> list[Layer]:
    """The layers that may be factored, in order of execution."""
    graph = original.graphs[False]
    found = [
        (site.merge.id, before.nodes[layer]["site"])
        for site in chosen if isinstance(site, ConcatSite) for layer in site.layers
    ]  # fmt: skip
    flops: Counter[str] = Counter()
    for _, attributes in before.nodes(data=True):
        flops[attributes["site"]] += attributes["flops"]
    layers = at_concats(original, graph, found, flops)
    if "linear" in rewrite.also:
        layers += others(original, graph, layers)
    order = {str(node.target): number for number, node in enumerate(graph.nodes) if node.op == "call_module"}
    return sorted(layers, key=lambda layer: order[layer.path])


def _asked(rewrite: ConcatToSum, lossy: _Lossy) -> Asked:
    unknown = [name for name in rewrite.also if name != "linear"]
    if unknown:
        raise UsageError(f"nothing is known of also={unknown[0]!r}", "Use linear, or leave it out.")
    if lossy.exactly is not None:
        return Asked(exactly=lossy.exactly, method=rewrite.method)  # type: ignore[arg-type]
    return Asked(rewrite.rank, rewrite.max_error, rewrite.budget, method=rewrite.method)  # type: ignore[arg-type]


def _finish(result: Rewritten, *, inference: bool, verified: bool, seed: int, tell: Progress) -> None:
    """Fold projections and norms into layers, which no map of states can say."""
    paths = [one.path for one in result.plan.factors]

    def fold(model: Captured, inputs: Inputs) -> Captured:
        new = model.copy()
        folded(new, paths)
        return new

    if paths:
        algebra, result.model = result.model, fold(result.model, result.inputs)
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


def _joining(chosen: Sequence[Match | Refusal], found: Sequence[Match | Refusal]) -> list[Match | Refusal]:
    """Concats that are no skips themselves, but join what chosen ones join with something else."""
    more: list[Match | Refusal] = []
    while True:
        ids = {one.merge.id for one in (*chosen, *more)}
        nested = {node for one in (*chosen, *more) if isinstance(one, ConcatSite) for node in one.concats}
        new = [one for one in found if one.merge.id not in ids and nested & {one.merge.node, *one.merge.nodes}]
        if not new:
            return more
        more += new


def _kept(
    sites: Sequence[ConcatSite], before: SkipGraph, after: SkipGraph, original: Captured, measured: Workbench | None
) -> dict[str, str]:
    """Concats that stay although they could go, with the reason."""
    target = min(after.cost.peak_bytes, before.cost.peak_bytes)
    kept = {}
    for site in sites:
        if level_bytes(site) > target:
            continue
        slower = _measured(site, before, original, measured) if measured is not None else None
        if slower is None:
            slower = modelled(site)
        if slower:
            kept[site.merge.id] = f"{slower}, and the peak of memory is elsewhere: it is executed on the concat"
    return kept


def _measured(site: ConcatSite, graph: SkipGraph, original: Captured, bench: Workbench) -> str | None:
    """By how much the parts of a site are slower than its concat; empty if they are not, None if nobody knows."""
    names = {graph.nodes[node]["site"] for node in (*site.merge.nodes, *site.carriers, *site.layers)}
    before = [node for node in original.graphs[False].nodes if node.name in names]
    made = bench.made.get(site.merge.id, set())
    after = [node for node in bench.captured.graphs[False].nodes if node in made]
    seconds = site_seconds(original, before, after, bench.captured)
    if seconds is None:
        return None
    return f"its parts take {seconds[1] / seconds[0]:.2f} of its time here" if seconds[1] > 1.02 * seconds[0] else ""


def _applied(
    original: Captured,
    inputs: Inputs,
    rewrite: Rewrite,
    ids: set[str],
    kept: dict[str, str],
    known: dict[str, Refusal] | None = None,
) -> tuple[Workbench, SkipGraph, dict[bool, tuple[Record, ...]], dict[str, Refusal]]:
    """The rewrite done to a copy: at the merges ``ids``, those in ``kept`` left out, wherever it can be."""
    bench = Workbench(original.copy(), inputs, eval_only=getattr(rewrite, "eval_only", False))
    sites = [
        {one.merge.id: one for one in rewrite.find(mode.graph) if one.merge.id in ids and one.merge.id not in kept}
        for mode in bench.modes
    ]
    refused = dict(known or {})
    records: list[list[Record]] = [[] for _ in bench.modes]
    for name, first in sites[0].items():
        if name in refused:
            continue
        steps = []
        for mode, its in zip(bench.modes, sites, strict=True):
            one = its.get(name)
            if one is None:
                one = Refusal(first.merge, "blocked", first.merge.node, f"{name} is not there in training")
            step = one if isinstance(one, Refusal) else rewrite.steps(one, mode.graph, mode.edits)  # type: ignore[arg-type]
            if isinstance(step, Refusal):
                refused[name] = step
                break
            steps.append((one, step))
        else:
            for mode, (one, step), done in zip(bench.modes, steps, records, strict=True):
                there = set(mode.edits.made)
                done.append(rewrite.apply(one, step, mode.graph, mode.edits))  # type: ignore[arg-type]
                if not mode.training:
                    bench.made[name] = mode.edits.made - there
    stranded = _stranded(sites[0], refused)
    if stranded:
        return _applied(original, inputs, rewrite, ids, kept, refused | stranded)
    bench.finish()
    both = records if len(records) == 2 else [records[0], [] if getattr(rewrite, "eval_only", False) else records[0]]
    after = drawn(bench.captured, inputs)
    return bench, after, {False: tuple(both[0]), True: tuple(both[1])}, refused


def _stranded(sites: dict[str, Any], refused: dict[str, Refusal]) -> dict[str, Refusal]:
    """Concats that only later concats read, of which one stays: they would turn into no sum."""
    staying = {}
    rewritten = {node for name, site in sites.items() if name not in refused for node in site.merge.nodes}
    for name, site in sites.items():
        if isinstance(site, ConcatSite) and not site.layers and name not in refused:
            later = next((node for node in site.concats if node not in rewritten), None)
            if later is not None:
                reason = f"{later}, which joins what {site.merge.node} joins, stays"
                staying[name] = Refusal(site.merge, "blocked", later, reason)
    return staying


def _outcome(one: Match | Refusal, rewrite: Rewrite, kept: dict[str, str], refused: dict[str, Refusal]) -> Outcome:
    name, skips = one.merge.id, tuple(skip.id for skip in one.merge.skips)
    refusal = one if isinstance(one, Refusal) else refused.get(name)
    if refusal is not None:
        return Outcome(name, skips, "refused", refusal.reason, refusal.node)
    assert isinstance(one, Match)
    delta = rewrite.price(one)  # type: ignore[arg-type]
    if name in kept:
        return Outcome(name, skips, "kept", kept[name], delta=delta)
    return Outcome(name, skips, "rewritten", one.reason, delta=delta)


def _ignore(text: str) -> None:
    """Nobody wants to be told."""
