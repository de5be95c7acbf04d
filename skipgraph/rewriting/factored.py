"""A rewrite with loss: layers are factored first, then the concats that they read are taken apart, exactly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from skipgraph.capture import Captured
from skipgraph.compress import Asked, compress
from skipgraph.compress.choose import Candidate
from skipgraph.compress.factor import Form
from skipgraph.compress.install import with_pairs
from skipgraph.compress.placing import folded, moved
from skipgraph.compress.sites import Layer, Sites, sources_of
from skipgraph.compress.trials import Trial, Trials
from skipgraph.errors import UsageError
from skipgraph.graph import SkipGraph
from skipgraph.passes import ConcatToSum, Match, Refusal
from skipgraph.passes.concat_site import Site as ConcatSite
from skipgraph.passes.workbench import Inputs, drawn
from skipgraph.plan import Outcome, fingerprint, matches, selected
from skipgraph.rewriting.exact import made_exactly, options_of
from skipgraph.rewriting.result import Progress, Rewritten, Wanted


@dataclass(frozen=True, slots=True)
class Lossy:
    """What factoring layers takes."""

    data: Iterable[Any] | None
    seed: int
    tell: Progress
    exactly: Mapping[str, tuple[Form, int]] | None = None


def made_factored(
    original: Captured,
    inputs: Inputs,
    rewrite: ConcatToSum,
    wanted: Wanted,
    *,
    as_it_runs: SkipGraph,
    lossy: Lossy,
) -> Rewritten:
    """Layers are factored first; then the concats that they read are taken apart, exactly."""
    asked = asked_of(rewrite, lossy)
    before = drawn(original, inputs)
    layers = layers_of(original, inputs, before, wanted, rewrite, lossy)
    sources = sources_of(layers)
    merges = {layer.path: layer.merge for layer in layers if layer.merge is not None}

    def exactly(model: Captured, paths: Sequence[str]) -> Rewritten:
        always = [merges[path] for path in paths if path in merges]
        made = made_exactly(model, inputs, ConcatToSum(), wanted, as_it_runs=as_it_runs, always=always)
        moved(made.model, paths, inputs)
        return made

    def build(candidates: Sequence[Candidate]) -> Trial:
        paths = [one.path for one in candidates]
        made = exactly(with_pairs(original, candidates), paths).model
        folded(made, paths, sources)
        return Trial(made, drawn(made, inputs))

    trials = Trials(Trial(original, before), build, asked.budget) if asked.budget is not None else None
    compressed = compress(original, layers, asked, inputs, lossy.data, trials=trials, seed=lossy.seed, tell=lossy.tell)
    exact = exactly(compressed.model, [one.path for one in compressed.layers])
    plan = replace(
        exact.plan,
        options=options_of(rewrite, wanted.execution, lossy.seed),
        fingerprint=fingerprint(original),
        factors=compressed.layers,
    )
    after = drawn(exact.model, inputs)
    return replace(exact, original=original, plan=plan, before=before, after=after, compressed=compressed)


def layers_of(
    original: Captured, inputs: Inputs, before: SkipGraph, wanted: Wanted, rewrite: ConcatToSum, lossy: Lossy
) -> list[Layer]:
    """The layers that may be factored, in order of execution: they read concats that can go, or are others."""
    unknown = [name for name in rewrite.also if name != "linear"]
    if unknown:
        raise UsageError(f"nothing is known of also={unknown[0]!r}", "Use linear, or leave it out.")
    sites = {one.merge.id: one for one in rewrite.find(before)}
    if wanted.exactly is not None:
        chosen: list[Match | Refusal] = [site for name, site in sites.items() if name in wanted.exactly]
        excluded: list[Outcome] = []
    else:
        chosen, excluded = selected([*sites.values()], before, wanted.only, wanted.skip, skips_only=True)
    ids = [one.merge.id for one in chosen]
    exact = made_exactly(
        original, inputs, ConcatToSum(), replace(wanted, execution="separate"), as_it_runs=before, always=ids
    )
    gone = {outcome.id for outcome in exact.plan.outcomes if outcome.status == "rewritten"} & set(ids)
    readers = {name: [before.nodes[layer]["site"] for layer in site.layers]
               for name, site in sites.items() if isinstance(site, ConcatSite)}  # fmt: skip
    left = {call for outcome in excluded for call in readers.get(outcome.id, ())}
    paths = {str(node.target) for node in original.graphs[False].nodes if node.name in left}

    def other(path: str) -> bool:
        if lossy.exactly is not None:
            return path in lossy.exactly
        return "linear" in rewrite.also and path not in paths and matches(path, wanted.only, wanted.skip)

    flops: Counter[str] = Counter()
    for _, attributes in before.nodes(data=True):
        flops[attributes["site"]] += attributes["flops"]
    biased = lossy.data is not None and rewrite.method != "svd"
    found = [(name, call) for name, calls in readers.items() if name in gone for call in calls]
    return Sites(original, flops, biased=biased).layers(found, other)


def asked_of(rewrite: ConcatToSum, lossy: Lossy) -> Asked:
    """What is asked of the ranks."""
    if lossy.exactly is not None:
        return Asked(exactly=lossy.exactly, method=rewrite.method)  # type: ignore[arg-type]
    return Asked(rewrite.rank, rewrite.max_error, rewrite.budget, method=rewrite.method)  # type: ignore[arg-type]


def totals(graph: SkipGraph) -> dict[str, float]:
    """What budgets are shares of."""
    return {"flops": graph.cost.flops, "parameters": graph.cost.parameters}
