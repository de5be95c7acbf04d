"""What is worth knowing of a model's skips, in plain words, the most costly things first.

Every sentence states what was computed, with its number; none is advice.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from skipgraph.graph import Skip, SkipGraph
from skipgraph.report import units
from skipgraph.report.rows import Row, rows

if TYPE_CHECKING:
    from skipgraph.inspection import Inspection

MOST_COSTLY = 3  # skips that get a sentence of their own
WORTH_A_SENTENCE = 0.02  # share of the peak, or of the FLOPs, below which nothing is said
NOUNS = {"add": "sum", "concat": "concat", "gated": "gated sum"}
NO_SKIPS = {  # by `Merge.reason`
    "conditioning": "adds a condition that has one position",
    "fusion": "fuses tensors of which none bypasses the other",
    "linear_branches": "joins linear maps side by side",
    "other_axis": "concatenates along another axis than the features",
    "parallel_branches": "joins parallel branches: no operand bypasses layers of another",
    "product": "has a product of two activations on the way",
    "resampled_concat": "concatenates a pooled or resampled copy",
    "slices": "puts slices of one tensor together again",
}


def findings(inspection: Inspection) -> list[str]:
    """Sentences about an inspection, ranked by what they cost, then what is no skip, then what is not known."""
    graph = inspection.graph
    ranked = sorted(_skip_costs(graph), key=lambda pair: -pair[0])
    return [
        *_no_skip_at_all(graph),
        *(sentence for _, sentence in ranked),
        *_frames_hold(graph),
        *_training(graph),
        *_no_skips(graph),
        *_unknown(inspection),
    ]


def _skip_costs(graph: SkipGraph) -> Iterator[tuple[float, str]]:
    """Sentences about skips, with their share of the peak or of the FLOPs."""
    yield from _costly_rows(graph)
    yield from _held_at_peak(graph)
    yield from _projections(graph)


def _costly_rows(graph: SkipGraph) -> Iterator[tuple[float, str]]:
    """The skips that hold most bytes for most steps."""
    cost = graph.cost
    for row in sorted(rows(graph), key=_byte_steps, reverse=True)[:MOST_COSTLY]:
        skips = [skip for group in row.skips for skip in group]
        longest = max(skips, key=lambda skip: skip.byte_steps)
        if not longest.byte_steps:
            continue
        tensor = f"{units.shape(graph.nodes[longest.operand_node]['shape'])}, {units.size(longest.bytes)}"
        at_peak = sum(_peak_tensors(skips).values())
        share = units.share(at_peak, cost.peak_bytes)
        several = len(row.skips) > 1
        yield (
            at_peak / cost.peak_bytes if cost.peak_bytes else 0.0,
            f"{_subject(row)} ({'up to ' if several else ''}{tensor}) {'are' if several else 'is'} held "
            f"for {'up to ' if several else ''}{longest.held_steps} of {cost.steps} steps"
            + (f" and {'are' if several else 'is'} {share} of the peak" if at_peak else ", but not at the peak"),
        )


def _byte_steps(row: Row) -> int:
    return sum(skip.byte_steps for group in row.skips for skip in group)


def _subject(row: Row) -> str:
    """What a row is called in a sentence: "the long concat cat from encoder.2"."""
    kind = NOUNS[row.first.kind]
    dense = "dense " if row.first.dense else ""
    if len(row.skips) == 1:
        return f"the {row.span()} {dense}{kind} {row.name} from {row.source()}"
    return f"the {len(row.skips)} {row.span()} {dense}{kind}s {row.name}"


def _peak_tensors(skips: list[Skip]) -> dict[str, int]:
    """Bytes of the tensors that skips hold at the peak, each tensor once."""
    return {skip.operand_node: skip.bytes for skip in skips if skip.held_at_peak}


def _held_at_peak(graph: SkipGraph) -> Iterator[tuple[float, str]]:
    tensors = _peak_tensors(graph.skips)
    peak = graph.cost.peak_bytes
    if len(tensors) > 1:
        together = sum(tensors.values())
        yield (
            together / peak,
            (
                f"memory peaks at step {graph.cost.peak_step} of {graph.cost.steps} ({graph.cost.peak_node}), where "
                f"{len(tensors)} tensors that shortcuts end in hold {units.size(together)}, "
                f"{units.share(together, peak)} of the peak"
            ),
        )


def _projections(graph: SkipGraph) -> Iterator[tuple[float, str]]:
    projected = [skip for skip in graph.skips if skip.shortcut == "projected"]
    spent = sum(graph.nodes[node]["flops"] for node in {n for skip in projected for n in skip.stem})
    share = spent / graph.cost.flops if graph.cost.flops else 0.0
    if share >= WORTH_A_SENTENCE:
        yield (
            share,
            (
                f"{units.plural(len(projected), 'projected shortcut')} "
                f"spend {units.flops(spent)}, {units.share(spent, graph.cost.flops)} of the total"
            ),
        )


def _frames_hold(graph: SkipGraph) -> Iterator[str]:
    cost = graph.cost
    saved = cost.peak_bytes - cost.peak_bytes_last_use
    share = saved / cost.peak_bytes if cost.peak_bytes else 0.0
    if share >= WORTH_A_SENTENCE:
        yield (
            f"if every tensor were freed at its last use, the peak would be {units.size(cost.peak_bytes_last_use)} "
            f"instead of {units.size(cost.peak_bytes)}: variables of the forward keep the rest"
        )


def _training(graph: SkipGraph) -> Iterator[str]:
    saved = graph.cost.saved_bytes
    if saved is None:
        return
    skips = {node for merge in graph.merges if merge.skips for node in merge.nodes or (merge.node,)}
    in_merges = sum(graph.nodes[node].get("saved_bytes", 0) for node in skips)
    text = f"training keeps {units.size(saved)} for the backward pass"
    yield text + (f", {units.share(in_merges, saved)} of it results of the merges" if in_merges else "")


def _no_skip_at_all(graph: SkipGraph) -> Iterator[str]:
    if not graph.counts.skips:
        yield "no skip connection: no tensor bypasses layers and comes back by a sum or a concat"


def _no_skips(graph: SkipGraph) -> Iterator[str]:
    """Merges and gates that look like skips and are none."""
    by_reason: dict[tuple[str, str], list[str]] = defaultdict(list)
    for merge in graph.merges:
        if not merge.skips:
            by_reason[merge.reason, merge.kind].append(merge.id)
    for (reason, kind), names in by_reason.items():
        why = NO_SKIPS.get(reason, reason.replace("_", " "))
        noun = NOUNS[kind]
        subject = f"the {noun} {names[0]}" if len(names) == 1 else f"each of {len(names)} {noun}s ({names[0]}, …)"
        yield f"{subject} {why}; no skip"
    if graph.gates:
        number = len(graph.gates)
        one = number == 1
        yield (
            f"{units.plural(number, 'product')} with a gate ({graph.gates[0].node}{'' if one else ', …'}) "
            f"{'rescales' if one else 'rescale'} a tensor and {'carries' if one else 'carry'} no signal: no skip"
        )


def _unknown(inspection: Inspection) -> Iterator[str]:
    cost = inspection.graph.cost
    if cost.unpriced_operators:
        names = ", ".join(f"{name} × {times}" for name, times in sorted(cost.unpriced_operators.items()))
        yield f"not priced, no FLOPs are counted for: {names}"
    own = {name: cost.flops_by_operator.get(name, 0) for name in cost.own_rules}
    if spent := sum(own.values()):
        top = Counter(own).most_common(4)
        names = ", ".join(name for name, _ in top) + (", …" if len(own) > len(top) else "")
        yield (
            f"{units.flops(spent)}, {units.share(spent, cost.flops)} of the total, are in operators that fvcore "
            f"does not count ({names})"
        )
    for module, reason in inspection.opaque:
        yield f"{module or 'the model'} could not be looked into: {reason}"
