"""A rewrite without any loss: which sites are taken, and the edits done at them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict
from numbers import Integral
from typing import Any, get_args

from skipgraph.capture import Captured
from skipgraph.errors import UsageError
from skipgraph.graph import SkipGraph
from skipgraph.passes import ConcatToSum, Match, Refusal
from skipgraph.passes.choose import level_bytes, modelled
from skipgraph.passes.concat_site import OF_GATES, joint, meeting
from skipgraph.passes.concat_site import Site as ConcatSite
from skipgraph.passes.edit import Step
from skipgraph.passes.measure import site_seconds
from skipgraph.passes.record import Record
from skipgraph.passes.workbench import Inputs, Workbench, drawn
from skipgraph.plan import Outcome, Plan, fingerprint, selected
from skipgraph.rewriting.result import Execution, Rewrite, Rewritten, Wanted


def made_exactly(
    original: Captured,
    inputs: Inputs,
    rewrite: Rewrite,
    wanted: Wanted,
    *,
    as_it_runs: SkipGraph,
    always: Collection[str] = (),
) -> Rewritten:
    """A rewritten copy of a captured model, unverified.

    Parameters
    ----------
    original : Captured
    inputs : tuple
    rewrite : ConcatToSum or SumToConcat
        Ranks are not looked at.
    wanted : Wanted
    as_it_runs : SkipGraph
        Of the user's own model.
    always : collection of str
        Ids of merges that are rewritten whatever the execution is.
    """
    if wanted.execution not in get_args(Execution):
        raise UsageError(f"unknown execution {wanted.execution!r}", f"Use one of: {', '.join(get_args(Execution))}.")
    before = drawn(original, inputs)
    found = rewrite.find(before)
    chosen: list[Match | Refusal]
    left: list[Outcome]
    if wanted.exactly is not None:
        chosen, left = [one for one in found if one.merge.id in wanted.exactly], []
    else:
        skips_only = isinstance(rewrite, ConcatToSum)
        chosen, left = selected(found, before, wanted.only, wanted.skip, skips_only=skips_only)
        chosen += _joining(chosen, [one for one in found if one.merge.id not in {out.id for out in left}])
    ids = {one.merge.id for one in chosen}
    kept: dict[str, str] = {}
    result = _applied(original, inputs, rewrite, ids, kept)
    sites = [one for one in chosen if isinstance(one, ConcatSite) and one.merge.id not in always]
    if wanted.execution != "separate" and wanted.exactly is None and sites:
        kept = _kept(sites, before, result[1], original, result[0] if wanted.execution == "measured" else None)
        if kept:
            result = _applied(original, inputs, rewrite, ids, kept)
    bench, after, records, refused = result
    outcomes = [*left, *(_outcome(one, rewrite, kept, refused) for one in chosen)]
    order = {one.merge.id: place for place, one in enumerate(found)}
    plan = Plan(
        rewrite.name,
        options_of(rewrite, wanted.execution),
        fingerprint(original),
        records,
        bench.surgery.state_map,
        tuple(sorted(outcomes, key=lambda outcome: order[outcome.id])),
    )
    return Rewritten(bench.captured, original, plan, as_it_runs, before, after, None, inputs, original)


def options_of(rewrite: Rewrite, execution: Execution, seed: int = 0) -> dict[str, Any]:
    """What was asked for, as JSON has it."""
    given: dict[str, Any] = {
        name: list(value) if isinstance(value, tuple) else value for name, value in asdict(rewrite).items()
    }
    if isinstance(given.get("rank"), Integral):
        given["rank"] = int(given["rank"])
    return {**given, "execution": execution, "inference": False, "seed": seed}


def _joining(chosen: Sequence[Match | Refusal], found: Sequence[Match | Refusal]) -> list[Match | Refusal]:
    """Concats that are no skips themselves, but join what chosen ones join with something else.

    Those of gates also where a chosen one joins what they join.
    """
    more: list[Match | Refusal] = []
    while True:
        known = [one for one in (*chosen, *more) if isinstance(one, ConcatSite)]
        ids = {one.merge.id for one in (*chosen, *more)}
        later = {node for one in known for node in one.concats}
        joined = {node for one in known for node in one.merge.operands}
        new = [
            one
            for one in found
            if one.merge.id not in ids
            and {one.merge.node, *one.merge.nodes} & (later | joined if one.merge.reason == OF_GATES else later)
        ]
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
    pending = _groups(sites[0], refused)
    while pending:
        names = pending.pop(0)
        steps = _steps(bench, rewrite, sites, names)
        if isinstance(steps, Refusal) and len(names) > 1:  # each for itself, then
            pending = [[name] for name in names] + pending
        elif isinstance(steps, Refusal):
            refused[names[0]] = steps
        else:
            for mode, (one, its), done in zip(bench.modes, steps, records, strict=True):
                there = set(mode.edits.made)
                done.append(rewrite.apply(one, its, mode.graph, mode.edits))
                if not mode.training:
                    bench.made |= dict.fromkeys(names, mode.edits.made - there)
    stranded = _stranded(sites[0], refused)
    if stranded:
        return _applied(original, inputs, rewrite, ids, kept, refused | stranded)
    bench.finish()
    both = records if len(records) == 2 else [records[0], [] if getattr(rewrite, "eval_only", False) else records[0]]
    after = drawn(bench.captured, inputs)
    return bench, after, {False: tuple(both[0]), True: tuple(both[1])}, refused


def _groups(sites: dict[str, Any], refused: dict[str, Refusal]) -> list[list[str]]:
    """The sites that are rewritten at once, in order: concats whose channels meet."""
    left = [site for name, site in sites.items() if name not in refused]
    concats = meeting([site for site in left if isinstance(site, ConcatSite)])
    others = [[site] for site in left if not isinstance(site, ConcatSite)]
    order = {name: place for place, name in enumerate(sites)}
    groups = [[site.merge.id for site in group] for group in (*concats, *others)]
    return sorted(groups, key=lambda names: order[names[0]])


def _steps(
    bench: Workbench, rewrite: Rewrite, sites: Sequence[dict[str, Any]], names: Sequence[str]
) -> list[tuple[Any, Any]] | Refusal:
    """The site that ``names`` are together, and its steps, in each mode."""
    steps = []
    for mode, its in zip(bench.modes, sites, strict=True):
        ones = []
        for name in names:
            found = its.get(name)
            if found is None:
                merge = sites[0][name].merge
                return Refusal(merge, "blocked", merge.node, f"{name} is not there in training")
            if isinstance(found, Refusal):
                return found
            ones.append(found)
        one: Any = joint(ones) if len(ones) > 1 else ones[0]
        step = rewrite.steps(one, mode.graph, mode.edits)
        if isinstance(step, Refusal):
            return step
        steps.append((one, step))
    path = _cut_otherwise(bench, [list(its) for _, its in steps if isinstance(its, list)])
    if path is not None:
        merge = sites[0][names[0]].merge
        return Refusal(merge, "blocked", merge.node, f"{path} is called otherwise in training")
    return steps


def _cut_otherwise(bench: Workbench, steps: Sequence[Sequence[Step]]) -> str | None:
    """A layer that the modes would cut in two ways, or that one of them calls whole; None if there is none."""
    if len(steps) < 2:
        return None
    cuts = [dict(filter(None, map(mode.edits.cuts, its))) for mode, its in zip(bench.modes, steps, strict=True)]
    for path in {**cuts[0], **cuts[1]}:
        how = [one.get(path) for one in cuts]
        whole = [mode for mode, one in zip(bench.modes, how, strict=True) if one is None and mode.edits.has_call(path)]
        if whole or (None not in how and how[0] != how[1]):
            return path
    return None


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
