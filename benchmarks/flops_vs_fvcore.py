"""FLOPs of twenty public models: ours on the operators that fvcore counts, against `fvcore.nn.FlopCountAnalysis`.

    python benchmarks/flops_vs_fvcore.py [--only PATTERN]

Prints a row a model, and below it every difference with its explanation. Exits with 1 if one is left unexplained.

fvcore traces with TorchScript, which names things otherwise (``aten::linear`` for what runs as ``addmm``) and drops
what reaches no output before it counts. Operators are compared by the groups below.
"""

from __future__ import annotations

import argparse
import copy
import fnmatch
import logging
import sys
import warnings
from collections import Counter

import torch
from models import MODELS, Example

from skipgraph.capture import capture
from skipgraph.cost import price
from skipgraph.graph import SkipGraph, build

# fvcore's names and ours for what the same products become.
GROUPS = {
    **dict.fromkeys(("linear", "addmm", "mm", "matmul", "bmm"), "matrix products"),
    **dict.fromkeys(("conv", "convolution"), "convolution"),
}


def grouped(flops: dict[str, int]) -> Counter[str]:
    """FLOPs by group."""
    groups: Counter[str] = Counter()
    for name, count in flops.items():
        groups[GROUPS.get(name, name)] += int(count)
    return +groups


def fvcore_flops(model: torch.nn.Module, example: torch.Tensor) -> tuple[Counter[str], Counter[str]]:
    """fvcore's FLOPs by operator, and what it could not count."""
    from fvcore.nn import FlopCountAnalysis

    analysis = FlopCountAnalysis(model, example).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    return Counter(analysis.by_operator()), analysis.unsupported_ops()


def our_graph(model: torch.nn.Module, example: torch.Tensor) -> SkipGraph:
    """The priced graph."""
    program = capture(copy.deepcopy(model).to("meta"), (example.to("meta"),), {})
    graph = build(program)
    price(graph, program)
    return graph


def dead_flops(graph: SkipGraph) -> Counter[str]:
    """FLOPs by group of what depends on an input and reaches no output: it runs, but fvcore's trace drops it."""
    dead: Counter[str] = Counter()
    for _, node in graph.nodes(data=True):
        if not node["live"] and not node["constant"]:
            dead[node["op"]] += node["flops"]
    return grouped(dead)


def same_padding_flops(graph: SkipGraph, model: torch.nn.Module) -> int:
    """FLOPs of convolutions with ``padding="same"``, an operator of its own that fvcore has no handle for."""
    same = {name for name, module in model.named_modules() if isinstance(getattr(module, "padding", None), str)}
    return sum(node["flops"] for _, node in graph.nodes(data=True) if node["module"] in same)


def explained(group: str, difference: int, graph: SkipGraph, model: torch.nn.Module) -> str:
    """Why ours exceeds fvcore's by ``difference``, or ``"UNEXPLAINED"``."""
    if difference == dead_flops(graph)[group]:
        return "runs but reaches no output; the trace drops it"
    if group == "convolution" and difference == same_padding_flops(graph, model):
        return 'padding="same" is traced as _convolution_mode, which fvcore has no handle for'
    return "UNEXPLAINED"


def compare(name: str, example: Example) -> bool:
    """Print the row of one model; whether all its differences are explained."""
    model, tensor = example.build(), example.input()
    theirs, uncounted = fvcore_flops(model, tensor)
    graph = our_graph(model, tensor)
    cost = graph.cost
    ours = grouped({name: flops for name, flops in cost.flops_by_operator.items() if name not in cost.own_rules})
    theirs_grouped = grouped(theirs)
    own = sum(cost.flops_by_operator[name] for name in cost.own_rules)
    print(f"{name:22} {sum(ours.values()):>15,} {sum(theirs.values()):>15,} {own:>13,}  {', '.join(cost.own_rules)}")
    good = True
    for group in sorted({*ours, *theirs_grouped}):
        difference = ours[group] - theirs_grouped[group]
        if difference:
            reason = explained(group, difference, graph, model)
            good = good and reason != "UNEXPLAINED"
            print(f"{'':22} {group}: {difference:+,} ({reason})")
    if "aten::scaled_dot_product_attention" in uncounted and "scaled_dot_product_attention" not in cost.own_rules:
        good = False
        print(f"{'':22} attention is counted by neither (UNEXPLAINED)")
    return good


def main() -> int:
    """Run the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", help="run the models whose name matches this pattern")
    pattern = parser.parse_args().only
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    print(f"{'model':22} {'ours':>15} {'fvcore':>15} {'own rules':>13}   (multiply-adds; ours on fvcore's operators)")
    results = [compare(name, example) for name, example in MODELS.items() if fnmatch.fnmatch(name, pattern)]
    print(f"{sum(results)} of {len(results)} models agree to the unit, or every difference is explained")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
