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
from skipgraph.compress.sites import Layer, at_concats, others
from skipgraph.compress.trials import MEASURES, Trial, Trials
from skipgraph.errors import UsageError
from skipgraph.graph import SkipGraph
from skipgraph.passes import ConcatToSum
from skipgraph.passes.concat_site import Site as ConcatSite
from skipgraph.passes.workbench import Inputs, drawn
from skipgraph.plan import fingerprint, selected
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
    before = drawn(original, inputs)
    layers = layers_of(original, before, wanted, rewrite)
    merges = {layer.path: layer.merge for layer in layers if layer.merge is not None}
    asked = asked_of(rewrite, lossy)

    def exactly(model: Captured, paths: Sequence[str]) -> Rewritten:
        always = [merges[path] for path in paths if path in merges]
        made = made_exactly(model, inputs, ConcatToSum(), wanted, as_it_runs=as_it_runs, always=always)
        moved(made.model, paths)
        return made

    def build(candidates: Sequence[Candidate]) -> Trial:
        paths = [one.path for one in candidates]
        made = exactly(with_pairs(original, candidates), paths).model
        folded(made, paths)
        return Trial(made, drawn(made, inputs))

    trials = None
    if set(asked.budget or ()) & set(MEASURES):
        lossy.tell("building the exact rewrite")
        trials = Trials(Trial(original, before), build, asked.budget or {})
    compressed = compress(
        original, layers, asked, inputs, lossy.data, totals=totals(before), trials=trials, seed=lossy.seed,
        tell=lossy.tell,
    )  # fmt: skip
    exact = exactly(compressed.model, [one.path for one in compressed.layers])
    plan = replace(
        exact.plan,
        options=options_of(rewrite, wanted.execution),
        fingerprint=fingerprint(original),
        factors=compressed.layers,
    )
    after = drawn(exact.model, inputs)
    return replace(exact, original=original, plan=plan, before=before, after=after, compressed=compressed)


def layers_of(original: Captured, before: SkipGraph, wanted: Wanted, rewrite: ConcatToSum) -> list[Layer]:
    """The layers that may be factored, in order of execution."""
    chosen, _ = selected(rewrite.find(before), before, wanted.only, wanted.skip, skips_only=True)
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


def asked_of(rewrite: ConcatToSum, lossy: Lossy) -> Asked:
    """What is asked of the ranks."""
    unknown = [name for name in rewrite.also if name != "linear"]
    if unknown:
        raise UsageError(f"nothing is known of also={unknown[0]!r}", "Use linear, or leave it out.")
    if lossy.exactly is not None:
        return Asked(exactly=lossy.exactly, method=rewrite.method)  # type: ignore[arg-type]
    return Asked(rewrite.rank, rewrite.max_error, rewrite.budget, method=rewrite.method)  # type: ignore[arg-type]


def totals(graph: SkipGraph) -> dict[str, float]:
    """What budgets are shares of."""
    return {"flops": graph.cost.flops, "parameters": graph.cost.parameters}
