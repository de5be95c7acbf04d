"""The words of a diagram: titles, summaries of operators, tooltips."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from skipgraph.graph import SkipGraph
from skipgraph.report import units
from skipgraph.report.drawing import Arrow, Box, Drawing
from skipgraph.report.fold import HEAVY

SPELLING = {
    "convolution": "conv",
    "cat": "concat",
    "mm": "linear",
    "addmm": "linear",
    "constant_pad_nd": "pad",
    "relu": "ReLU",
    "relu6": "ReLU6",
    "gelu": "GELU",
    "silu": "SiLU",
    "elu": "ELU",
    "leaky_relu": "leaky ReLU",
    "multi_head_attention": "attention",
    "scaled_dot_product_attention": "attention",
    "native_batch_norm": "batch norm",
    "native_layer_norm": "layer norm",
    "native_group_norm": "group norm",
    "mean": "average",
}
SILENT = frozenset("view slice expand create linear_map scatter pad".split())
CONTAINERS = frozenset(("Sequential", "ModuleList", "ModuleDict"))
LONGEST_NAME = 34
MOST_IDS = 12


def operator_name(op: str) -> str:
    """How an operator is called in a diagram.

    Examples
    --------
    >>> operator_name("convolution"), operator_name("max_pool2d"), operator_name("upsample_bilinear2d")
    ('conv', 'max pool', 'upsample bilinear')
    """
    if op in SPELLING:
        return SPELLING[op]
    for ending in ("1d", "2d", "3d"):
        op = op.removesuffix(ending)
    return op.strip("_").replace("_", " ")


def summary(graph: SkipGraph, box: Box) -> str:
    """What one repetition of a box computes: all operators if they are few or periodic, else the heavy ones counted.

    A box of "conv, batch norm, ReLU, conv, batch norm, ReLU" is "2 × (conv · batch norm · ReLU)".
    """
    nodes = [graph.nodes[node] for node in box.nodes[: len(box.pattern)]]
    shown = [operator_name(n["op"]) for n in nodes if n["kind"] not in SILENT]
    shown = shown or [operator_name(n["op"]) for n in nodes]
    period, times = _period(shown)
    if times > 1 and period == 1:
        return f"{times} × {shown[0]}"
    if times > 1 and period <= 4:
        return f"{times} × ({' · '.join(shown[:period])})"
    if len(shown) <= 4:
        return " · ".join(shown)
    heavy = Counter(operator_name(n["op"]) for n in nodes if n["kind"] in HEAVY)
    if not heavy:
        return f"{len(nodes)} operators"
    most = heavy.most_common(3)
    words = [name if number == 1 else f"{number} × {name}" for name, number in most]
    return " · ".join(words) + (" · …" if len(heavy) > len(most) else "")


def _period(words: Sequence[str]) -> tuple[int, int]:
    """The shortest stretch that, repeated, gives ``words``, and how often."""
    for period in range(1, len(words) // 2 + 1):
        if len(words) % period == 0 and all(w == words[i % period] for i, w in enumerate(words)):
            return period, len(words) // period
    return len(words), 1


def path_of(graph: SkipGraph, box: Box) -> str:
    """The innermost module that runs all of a box's heavy operators (of its first repetition)."""
    nodes = [graph.nodes[node] for node in box.nodes[: len(box.pattern)]]
    paths = [n["module"].split(".") for n in nodes if n["kind"] in HEAVY] or [n["module"].split(".") for n in nodes]
    common = paths[0]
    for path in paths[1:]:
        same = 0
        while same < min(len(common), len(path)) and common[same] == path[same]:
            same += 1
        common = common[:same]
    return ".".join(common)


def title(graph: SkipGraph, box: Box, modules: dict[str, str], frame: str) -> str:
    """The first line of a box inside ``frame``: where it is, and the class of that module if it holds others."""
    if "input" in box.kinds:
        return box.id
    path = path_of(graph, box)
    if not path:
        return summary(graph, box)
    name = modules.get(path, "") if any(other.startswith(path + ".") for other in modules) else ""
    inside = relative(path, frame)
    if not inside:
        return name or summary(graph, box)
    return f"{shorten(inside)}: {name}" if name and name not in CONTAINERS else shorten(inside)


def merge_title(graph: SkipGraph, box: Box, name: str) -> str:
    """What a merge's box does: its ``name``, with the operators that are drawn together with it."""
    merged = {box.merge.node, *box.merge.nodes} if box.merge else set()
    words: list[str] = []
    for node in box.nodes[: len(box.pattern)]:
        data = graph.nodes[node]
        if node in merged:
            words = [] if box.merge and box.merge.kind == "gated" else words  # its products are what it is
            words += [name] if name not in words else []
        elif data["kind"] not in SILENT:
            words.append(operator_name(data["op"]))
    return " · ".join(words)


def relative(path: str, frame: str) -> str:
    """A module path as it is written inside the frame of another; bare numbers keep the name before them.

    Examples
    --------
    >>> relative("features.block1.conv", "features.block1"), relative("layer1.0", "layer1"), relative("head", "layer1")
    ('conv', 'layer1.0', 'head')
    >>> relative("stages.layer1.1–5", "stages.layer1")
    'layer1.1–5'
    """
    if path == frame:
        return ""
    inside = path.removeprefix(frame + ".") if frame else path
    parts, shown = path.split("."), inside.count(".") + 1
    while shown < len(parts) and parts[-shown].replace("–", "").isdigit():
        shown += 1
    return ".".join(parts[-shown:])


def shorten(path: str, longest: int = LONGEST_NAME) -> str:
    """A module path, its head left out if it is too long.

    Examples
    --------
    >>> shorten("backbone.features.layers.11.attention.projection", 25)
    '….11.attention.projection'
    """
    parts = path.split(".")
    while len(".".join(parts)) > longest and len(parts) > 1:
        parts = parts[1:]
    shown = ".".join(parts)
    return shown if shown == path else f"….{shown}"


def costs(graph: SkipGraph, box: Box) -> str:
    """FLOPs and parameters of a box: "5 × 218 MFLOPs" if its repetitions cost the same, else their sum."""
    parts = []
    for key, total, unit in (("flops", box.flops, units.flops), ("parameters", box.parameters, _parameters)):
        if not total:
            continue
        length = len(box.pattern)
        each = {sum(graph.nodes[n][key] for n in box.nodes[i : i + length]) for i in range(0, len(box.nodes), length)}
        times = len(box.nodes) // length
        parts.append(f"{times} × {unit(total // times)}" if times > 1 and len(each) == 1 else unit(total))
    return " · ".join(parts)


def _parameters(number: int) -> str:
    return f"{units.count(number)} parameters"


def box_tooltip(graph: SkipGraph, box: Box) -> str:
    """Everything about a box, one fact a line."""
    nodes = box.nodes if len(box.nodes) <= MOST_IDS else [*box.nodes[: MOST_IDS - 1], f"… {box.nodes[-1]}"]
    lines = [
        f"{box.module or 'model'}: {summary(graph, box)}" + (f", {box.times} times" if box.times > 1 else ""),
        f"result {units.shape(box.shape)}",
        f"{box.flops:,} FLOPs, {box.parameters:,} parameters, {units.plural(len(box.nodes), 'operator')}",
        units.plural(box.skips, "skip") if box.skips else "",
        f"{box.merge.kind}, {box.merge.span}, {box.merge.shortcut}" if box.merge else "",
        "held when memory is at its peak" if box.held_at_peak else "",
        "operators: " + ", ".join(nodes),
    ]
    return "\n".join(line for line in lines if line)


def arrow_tooltip(arrow: Arrow) -> str:
    """Everything about an arrow, one fact a line."""
    span = "long" if arrow.style.long else "short"
    ids = arrow.skips if len(arrow.skips) <= MOST_IDS or arrow.style.long else [*arrow.skips[: MOST_IDS - 1], "…"]
    lines = [
        f"{arrow.tail} → {arrow.head}: {units.size(arrow.bytes)}"
        + (f", {arrow.times} times" if arrow.times > 1 else ""),
        f"{span} skip into {arrow.style.kind}" if arrow.style.role == "skip" else arrow.style.role,
        f"{units.plural(len(arrow.skips), 'shortcut')}: {', '.join(ids)}" if arrow.skips else "",
        "held when memory is at its peak" if arrow.held_at_peak else "",
    ]
    return "\n".join(line for line in lines if line)


def arrow_label(arrow: Arrow, alone: bool) -> list[str]:
    """The lines written beside an arrow: the id of a long skip, the number of shortcuts in a bundle.

    Where several long skips end in one merge (not ``alone``), their ids are written in the merge.
    """
    if arrow.style.long:
        return [*arrow.skips, units.size(arrow.bytes)] if arrow.skips and alone else []
    each = len(arrow.skips) // max(1, arrow.times)
    if arrow.style.role == "skip" and (each > 1 or len(arrow.skips) > arrow.times):
        return [units.plural(len(arrow.skips), "shortcut")]
    return []


def totals(graph: SkipGraph, drawing: Drawing) -> str:
    """The model's totals in one line, from the boxes of a drawing (they are the totals of the graph)."""
    counts = graph.counts
    parts = [
        units.plural(counts.skips, "skip") + _kinds(graph),
        units.flops(sum(box.flops for box in drawing.boxes.values())),
        f"{units.count(graph.cost.parameters)} parameters",
        f"peak {units.size(graph.cost.peak_bytes)}",
        units.plural(sum(len(box.nodes) for box in drawing.boxes.values()), "operator"),
    ]
    return "  ·  ".join(parts)


def _kinds(graph: SkipGraph) -> str:
    counts = graph.counts
    words = [f"{n} {word}" for word in ("add", "concat", "gated", "long") if (n := getattr(counts, word))]
    return f" ({', '.join(words)})" if words else ""
