"""Live ranges if a sum of layers were one layer on a concat."""

from __future__ import annotations

from skipgraph.passes.kernels import merged_workspace
from skipgraph.passes.live_ranges import Change
from skipgraph.passes.sum_site import Site


def changes(site: Site, joined: int) -> list[Change]:
    """Live ranges if layers and sums go, and one layer on a concat runs where the last sum did."""
    ranges, nodes, merge = site.ranges, site.ranges.nodes, site.merge
    tick = ranges.tick_of[merge.node]
    result = nodes[merge.node]["bytes_out"]
    out = ranges.block(merge.node)
    kept = {ranges.block(factor.tensor) for factor in site.factors}
    vanish = [node for factor in site.factors if factor.layer for node in (factor.layer, *factor.between)]
    gone = {ranges.block(node) for node in (*vanish, *merge.nodes)} - kept - {out}
    changes = [ranges.without(block) for block in gone] + [ranges.extended(block, tick + 1) for block in kept]
    if out not in kept:
        changes.append(ranges.without(out, tick))
    for node in (*vanish, *merge.nodes):
        at = ranges.tick_of[node]
        changes.append((at, at + 1, -nodes[node].get("workspace_bytes", 0)))
    workspace = _workspace(site)
    freed = sum(ranges.nbytes(block) for block in kept if block == out or ranges.end(block) <= tick + 1)
    # First the concat is written, with no result yet; then the layer runs, its operands gone. A sum that was written
    # over an operand has no result of its own in these live ranges.
    there = 0 if out in kept else result
    changes.append((tick, tick + 1, joined + max(-there, workspace + result - there - freed)))
    return changes


def _workspace(site: Site) -> int:
    """What the kernel of the merged layer allocates for itself."""
    if not site.window.kernel:
        return 0
    nodes, merge, window = site.ranges.nodes, site.merge, site.window
    output = nodes[merge.node]["shape"]
    width = sum(nodes[factor.tensor]["shape"][1] for factor in site.factors)
    inputs = (output[0], width, *nodes[site.factors[0].tensor]["shape"][2:])
    weight = (output[1], width, *window.kernel)
    dtype = nodes[merge.node]["dtype"]
    return merged_workspace(inputs, weight, output, window.stride, window.padding, window.dilation, dtype)
