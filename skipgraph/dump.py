"""A textual form of a graph: the language of tests, golden files and diffs.

::

    %x = input() 2x8 input [positions=1]
    %body.0 = addmm(_, %x) 2x8 layer [positions=1]
    %body.1 = relu(%body.0) 2x8 activation [positions=1]
    %body.2 = addmm(_, %body.1) 2x8 layer [positions=1]
    %add = add(%x, %body.2) 2x8 sum [positions=1 output]

    merge %add = add(%x, %body.2): skip
      skip add:0 = short identity add from %x past 2 layers

One line a node, in order of execution, then one a merge, one a skip and one a gate. Shapes are written as ``--input``
takes them, the dtype only where it is not float32. Costs are left out: they are numbers, and tests compare numbers.
"""

from __future__ import annotations

from collections.abc import Iterator

from skipgraph.graph import Merge, NodeAttributes, Skip, SkipGraph


def dump(graph: SkipGraph) -> str:
    """Write a graph as text.

    Parameters
    ----------
    graph : SkipGraph
        Before or after its skips were found.

    Returns
    -------
    str
        The same for graphs with the same nodes, edges, merges and gates, in whatever order they were put in.

    Examples
    --------
    >>> import skipgraph, torch
    >>> print(dump(skipgraph.trace(torch.nn.Linear(3, 4), torch.empty(1, 3))), end="")
    %input = input() 1x3 input [positions=1]
    %addmm = addmm(_, %input) 1x4 layer [positions=1 output]
    """
    nodes = sorted(graph.nodes(data=True), key=lambda item: (item[1]["index"], item[0]))
    lines = [_node(graph, node, attributes) for node, attributes in nodes]
    found = [*_merges(graph), *(f"gate %{g.node} = %{g.data} rescaled by %{g.gate}" for g in graph.gates)]
    return "\n".join([*lines, *([""] if found else []), *found]) + "\n"


def _node(graph: SkipGraph, node: str, attributes: NodeAttributes) -> str:
    shape = "x".join(map(str, attributes["shape"])) or "scalar"
    dtype = "" if attributes["dtype"] == "float32" else f":{attributes['dtype']}"
    flags = " ".join(_flags(attributes))
    return f"%{node} = {attributes['op']}({_operands(graph, node)}) {shape}{dtype} {attributes['kind']}" + (
        f" [{flags}]" if flags else ""
    )


def _operands(graph: SkipGraph, node: str) -> str:
    """Operands by position; ``_`` stands for those in front that are no data: parameters, constants, masks."""
    places: list[str] = []
    for position, producer in graph.operands(node):
        places += ["_"] * (position - len(places))
        places.append(f"%{producer}")
    return ", ".join(places)


def _flags(attributes: NodeAttributes) -> Iterator[str]:
    if attributes["axis"] is not None:
        role = attributes["axis_role"]
        yield f"axis={attributes['axis']}" + (f":{role}" if role else "")
    if attributes["slice"] is not None:
        yield f"slice={':'.join(map(str, attributes['slice']))}"
    if attributes["constant"]:
        yield "constant"
        return
    yield f"positions={attributes['positions']}"
    if attributes["resamples"]:
        yield "resamples"
    if attributes["output"]:
        yield "output"
    elif not attributes["live"]:
        yield "dead"


def _merges(graph: SkipGraph) -> Iterator[str]:
    for merge in sorted(graph.merges, key=lambda merge: graph.nodes[merge.node]["index"]):
        yield _merge(merge)
        yield from (f"  {_skip(skip)}" for skip in merge.skips)


def _merge(merge: Merge) -> str:
    axis = "" if merge.axis is None else f" axis={merge.axis}"
    parts = [node for node in merge.nodes if node != merge.node]
    flattened = f" with {', '.join(f'%{node}' for node in parts)}" if parts else ""
    operands = ", ".join(f"%{operand}" for operand in merge.operands)
    return f"merge %{merge.id} = {merge.kind}({operands}){axis}{flattened}: {merge.reason}"


def _skip(skip: Skip) -> str:
    through = f" through {', '.join(f'%{node}' for node in skip.stem)}" if skip.stem else ""
    layers = f"{skip.bypassed_layers} layer{'' if skip.bypassed_layers == 1 else 's'}"
    labels = [
        *(["dense"] if skip.dense else []),
        *([f"nesting={skip.nesting}"] if skip.nesting else []),
        *([f"edges={skip.edges}"] if skip.edges != 1 else []),
        *([f"coarsest={skip.coarsest_scale:g}"] if skip.coarsest_scale != 1.0 else []),
    ]
    return f"skip {skip.id} = {skip.span} {skip.shortcut} {skip.kind} from %{skip.source}{through} past {layers}" + (
        f" [{' '.join(labels)}]" if labels else ""
    )
