"""Everything that was found, as JSON; ``docs/inspect.schema.json`` describes it."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from skipgraph.graph import Merge, Skip, SkipGraph
from skipgraph.report.registry import Options, register

if TYPE_CHECKING:
    from skipgraph.inspection import Inspection

SCHEMA = "skipgraph.inspect/1"


@register("json")
def write(inspection: Inspection, options: Options) -> str:
    """The inspection as JSON text, in an order that is the same every time."""
    return json.dumps(document(inspection), indent=1, ensure_ascii=False, allow_nan=False)


def document(inspection: Inspection) -> dict[str, Any]:
    """The inspection as plain lists and dictionaries: bytes, FLOPs (multiply-adds) and steps as whole numbers."""
    graph = inspection.graph
    return {
        "schema": SCHEMA,
        "model": {
            "spec": inspection.spec,
            "weights": inspection.weights,
            "parameters": graph.cost.parameters,
            "parameter_bytes": graph.cost.parameter_bytes,
            "inputs": [
                {"name": i["name"], "shape": list(i["shape"]), "dtype": str(i["dtype"])} for i in inspection.inputs
            ],
        },
        "capture": {
            "method": inspection.method,
            "training": inspection.training,
            "opaque": [{"module": module, "reason": reason} for module, reason in inspection.opaque],
        },
        "totals": totals(graph),
        "nodes": [_node(graph, node) for node in _ordered(graph)],
        "edges": list(_edges(graph)),
        "merges": [_merge(merge) for merge in graph.merges],
        "gates": [{"node": gate.node, "data": gate.data, "gate": gate.gate} for gate in graph.gates],
        "skips": [_skip(skip) for skip in graph.skips],
        "warnings": list(inspection.warnings),
    }


def _ordered(graph: SkipGraph) -> list[str]:
    return sorted(graph, key=lambda node: int(graph.nodes[node]["index"]))


def totals(graph: SkipGraph) -> dict[str, Any]:
    """Costs of the whole model, sizes of the graph, and counts of skips."""
    cost, counts = graph.cost, graph.counts
    found: dict[str, Any] = {
        "flops": cost.flops,
        "flops_by_operator": dict(sorted(cost.flops_by_operator.items())),
        "operators_priced_by_own_rules": sorted(cost.own_rules),
        "unpriced_operators": dict(sorted(cost.unpriced_operators.items())),
        "activation_bytes": cost.activation_bytes,
        "peak_bytes": cost.peak_bytes,
        "peak_bytes_last_use": cost.peak_bytes_last_use,
        "peak_step": cost.peak_step,
        "peak_node": cost.peak_node,
        "steps": cost.steps,
        "nodes": graph.number_of_nodes(),
        "edges": graph.number_of_edges(),
        "merges": len(graph.merges),
        "skips": counts.skips,
        "add": counts.add,
        "concat": counts.concat,
        "gated": counts.gated,
        "short": counts.short,
        "long": counts.long,
        "identity": counts.identity,
        "projected": counts.projected,
        "skip_edges": counts.edges,
    }
    if cost.saved_bytes is not None:
        found["saved_bytes"] = cost.saved_bytes
    return found


def _node(graph: SkipGraph, node: str) -> dict[str, Any]:
    data = graph.nodes[node]
    return {
        "id": node,
        "op": data["op"],
        "call": data["call"],
        "module": data["module"],
        "shape": list(data["shape"]),
        "dtype": data["dtype"],
        "flops": data["flops"],
        "parameters": data["parameters"],
        "bytes": data["bytes_out"],
        "view": data["is_view"],
        "held_at_peak": data["held_at_peak"],
    }


def _edges(graph: SkipGraph) -> list[dict[str, Any]]:
    index = {node: data["index"] for node, data in graph.nodes(data=True)}
    edges = sorted(graph.edges(keys=True, data=True), key=lambda edge: (index[edge[1]], edge[2]))
    return [
        {
            "src": tail,
            "dst": head,
            "operand": key,
            "bytes": data["bytes"],
            "flops": data["flops"],
            "attributed_flops": data["attributed_flops"],
            "held_steps": data["held_steps"],
            "held_at_peak": data["held_at_peak"],
            "skips": list(data.get("skips", ())),
        }
        for tail, head, key, data in edges
    ]


def _merge(merge: Merge) -> dict[str, Any]:
    return {
        "id": merge.id,
        "node": merge.node,
        "kind": merge.kind,
        "axis": merge.axis,
        "operands": list(merge.operands),
        "skips": [skip.id for skip in merge.skips],
        "span": merge.span,
        "shortcut": merge.shortcut,
        "reason": merge.reason,
    }


def _skip(skip: Skip) -> dict[str, Any]:
    return {
        "id": skip.id,
        "merge": skip.merge,
        "kind": skip.kind,
        "span": skip.span,
        "shortcut": skip.shortcut,
        "source": skip.source,
        "operand": skip.operand,
        "dense": skip.dense,
        "edges": skip.edges,
        "bytes": skip.bytes,
        "byte_steps": skip.byte_steps,
        "held_steps": skip.held_steps,
        "held_at_peak": skip.held_at_peak,
        "bypassed_layers": skip.bypassed_layers,
        "coarsest_scale": skip.coarsest_scale if math.isfinite(skip.coarsest_scale) else 0.0,
        "nesting": skip.nesting,
        "rewrites": {name: dict(skip.rewrites[name]) for name in sorted(skip.rewrites)},
    }
