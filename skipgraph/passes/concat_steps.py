"""A site of operators as steps on calls: which law is applied to which call, in order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from skipgraph.graph import Merge, SkipGraph
from skipgraph.passes.channels import BlockedError, Channels
from skipgraph.passes.concat_site import Site, concats_of
from skipgraph.passes.edit import Edits, Step
from skipgraph.passes.laws import distribute, flatten, split
from skipgraph.passes.record import ConcatRecord, StepRecord


def steps(site: Site, graph: SkipGraph, edits: Edits) -> list[Step]:
    """The steps that take a concat away, with the operands that it has at present.

    Raises
    ------
    BlockedError
        If a call cannot be taken apart although its operators allow it.
    """
    found: list[Step] = []
    concats: dict[str, Channels] = {}
    for merge in (site.merge, *site.others):
        concat, nested = _joining(merge, graph, edits)
        axis = edits.axis(concat)
        whole = Channels(axis, tuple(edits.shape(operand)[axis] for operand in _operands(edits, concat, nested)))
        concats[concat] = whole
        found += [Step("flatten", concat, (inner,), whole, whole) for inner in nested]
        if whole.widths != concats[next(iter(concats))].widths:
            raise BlockedError(merge.node, f"{merge.node} joins other widths than {site.merge.node}, which it meets")
    calls = _calls(site, graph)
    for concat, whole in concats.items():
        found += _handing_on(edits, concat, whole, calls)
    for call in calls:
        if call not in concats:
            step = _step(site, graph, edits, call, whole.widths)
            found += [step, *(_handing_on(edits, call, step.after, calls) if step.law == "distribute" else [])]
    inner = [step.reads[0] for step in found if step.call in concats]
    for concat in concats:
        _check_contexts(found, concat, [*inner, *_operands(edits, concat, inner)], edits)
    _check(found, list(concats), edits)
    return found


def _joining(merge: Merge, graph: SkipGraph, edits: Edits) -> tuple[str, list[str]]:
    """The call of a concat, and those of the concats nested in it, later ones first."""
    nodes = graph.nodes
    for node in merge.nodes:
        if not edits.is_concat(nodes[node]["site"]):
            raise BlockedError(node, f"{node} is part of {nodes[node]['call']}, which does more than join")
    concat = nodes[merge.node]["site"]
    nested = [nodes[node]["site"] for node in sorted(merge.nodes, key=lambda node: -nodes[node]["index"])]
    nested.remove(concat)
    return concat, nested


def _operands(edits: Edits, concat: str, nested: Sequence[str]) -> list[str]:
    """The operands of a concat, with those of the concats nested in it."""
    return [
        inner
        for operand in edits.operands(concat)
        for inner in (_operands(edits, operand, nested) if operand in nested else [operand])
    ]


def _check_contexts(found: Sequence[Step], concat: str, operands: Sequence[str], edits: Edits) -> None:
    """A concat ends gradients, or keeps a dtype, where it runs under something else than its operands do.

    Then its parts have to run there, too.
    """
    own = edits.context(concat)
    other = next((step.call for step in found if edits.context(step.call) != own), None)
    if other is not None and any(edits.context(operand) != own for operand in operands):
        raise BlockedError.by_context(other, concat)


def _check(found: Sequence[Step], concats: Sequence[str], edits: Edits) -> None:
    # Concats nested in one may be nested in one another: those in between read what goes as well.
    joining = [*concats, *(step.reads[0] for step in found if step.call in concats)]
    readers: dict[str, list[str]] = {call: [*joining] for call in joining}
    for step in found:
        for read in step.reads:
            readers.setdefault(read, []).append(step.call)
    for step in found:
        if not edits.intact(step.call):
            raise BlockedError(step.call, f"{step.call} was rewritten with an earlier site")
        if step.law == "flatten":
            continue
        obstacle = edits.obstacle(step)
        if obstacle is not None:
            raise BlockedError(step.call, obstacle)
        border = edits.straddled(step.call, step.before) if step.law == "distribute" else None
        if border is not None:
            raise BlockedError(step.call, f"a group of {step.call} straddles the boundary at channel {border}")
    for call, known in readers.items():
        others = edits.other_readers(call, known)
        if others:
            raise BlockedError(others[0], f"{others[0]} reads {call} too, out of sight of the graph of operators")


def take_apart(steps: Sequence[Step], site: Site, graph: SkipGraph, edits: Edits) -> ConcatRecord:
    """Apply the laws, take the concats out, and say what was done."""
    concat, *others = (graph.nodes[merge.node]["site"] for merge in (site.merge, *site.others))
    joined = {call: call for call in (concat, *others)}
    inner = {call: [step.reads[0] for step in steps if step.call == call] for call in joined}
    axis = {call: edits.axis(call) for call in joined}
    widths = tuple(edits.shape(operand)[axis[concat]] for operand in _operands(edits, concat, inner[concat]))
    scope = edits.scope(concat)
    records = [
        StepRecord("join", call, (), Channels(axis[call], widths), site=merge.id, scope=edits.scope(call))
        for call, merge in zip(others, site.others, strict=True)
    ]
    done = [step for step in steps if step.call not in (concat, *others)]
    number = {call: place for place, call in enumerate([concat, *others, *(step.call for step in done)])}
    for step in steps:
        reads = [joined.setdefault(read, read) for read in step.reads]
        if step.call not in (concat, *others):
            known = edits.description(step)
            if step.law == "flatten":
                known = _joined_by(step.call, reads[0], graph, edits)
            places = tuple(number[read] for read in step.reads)
            records.append(StepRecord(step.law, step.call, places, step.after, **known))
        if step.law == "flatten":
            for read in reads:
                flatten(edits, step.call, read)
        elif step.law == "split":
            split(edits, step.call, reads[0], step.before)
        else:
            joined[step.call] = distribute(edits, step.call, reads, step.before, step.after)
    for made in reversed(joined.values()):
        edits.erase(made)
    return ConcatRecord(site.merge.id, axis[concat], widths, tuple(records), scope)


def _joined_by(call: str, inner: str, graph: SkipGraph, edits: Edits) -> dict[str, Any]:
    """The site of a concat that another one is flattened into, and the place there, nested concats taken apart."""
    merges = concats_of(graph)
    sites = {node: graph.nodes[node]["site"] for merge in merges for node in merge.nodes}
    merge = next(merge for merge in merges if any(sites[node] == call for node in merge.nodes))
    nested = [sites[node] for node in merge.nodes if node != merge.node]
    return {"site": merge.id, "place": _operands(edits, sites[merge.node], nested).index(inner)}


def _calls(site: Site, graph: SkipGraph) -> list[str]:
    """The calls of a site, in order of execution."""
    members = [*site.carriers, *site.layers, *site.concats]
    order = sorted(members, key=lambda node: graph.nodes[node]["index"])
    return list(dict.fromkeys(graph.nodes[node]["site"] for node in order))


def _handing_on(edits: Edits, call: str, channels: Channels, calls: Sequence[str]) -> list[Step]:
    """Steps for those that hand on what a call makes and are no operators of the graph (in training they may be)."""
    return [
        step
        for idle in edits.handed_on(call)
        if idle not in calls
        for step in (
            Step("distribute", idle, (call,), channels, channels),
            *_handing_on(edits, idle, channels, calls),
        )
    ]


def _step(site: Site, graph: SkipGraph, edits: Edits, call: str, widths: tuple[int, ...]) -> Step:
    nodes = graph.nodes
    inside = [node for node in (*site.carriers, *site.layers, *site.concats) if nodes[node]["site"] == call]
    read = [
        operand
        for node in inside
        for _, operand in graph.operands(node)
        if operand in site.carriers and nodes[operand]["site"] != call
    ]
    before = _refined(site, read[0], widths)
    carried = dict.fromkeys(nodes[one]["site"] for operand in read for one in (operand, *_same(operand, site, graph)))
    known = {name for one in carried for name in (one, *_handed_on(edits, one))}
    reads = tuple(name for name in edits.reads(call) if name in known)
    if any(node in site.layers for node in inside):
        return Step("split", call, reads, before, before)
    if any(node in site.concats for node in inside):
        return Step("flatten", call, reads, before, before)
    last = max(inside, key=lambda node: nodes[node]["index"])
    return Step("distribute", call, reads, before, _refined(site, last, widths))


def _same(carrier: str, site: Site, graph: SkipGraph) -> Iterator[str]:
    """What a carrier is a view of in the same shape, so that the graph of operators does not tell who reads which."""
    nodes = graph.nodes
    while nodes[carrier].get("is_view"):
        (source,) = graph.pred[carrier]
        if source not in site.carriers or nodes[source]["shape"] != nodes[carrier]["shape"]:
            return
        carrier = source
        yield carrier


def _refined(site: Site, carrier: str, widths: tuple[int, ...]) -> Channels:
    """Where the operands lie, when some of those that were found have been taken apart themselves."""
    channels = site.carriers[carrier]
    total = sum(channels.widths)
    if channels.times > 1 or any(total * width % sum(widths) for width in widths):
        raise BlockedError(carrier, f"{carrier} rearranges the concatenated channels")
    return Channels(channels.axis, tuple(total * width // sum(widths) for width in widths))


def _handed_on(edits: Edits, call: str) -> list[str]:
    return [name for idle in edits.handed_on(call) for name in (idle, *_handed_on(edits, idle))]
