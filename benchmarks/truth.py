"""Run the detector over a file of hand-counted models and print a row a model.

    python benchmarks/truth.py --truth FILE [--only PATTERN] [-v]

FILE is a JSON list of rows: ``model`` (a label), ``imports`` and ``build`` (Python that makes the module), ``input`` (a
shape, or shapes by keyword), and the counts ``skips_total``, ``add``, ``concat``, ``gated``, ``short``, ``long``,
``identity``, ``projected``, ``edges`` (null where it was not counted). Exits with 1 if a row disagrees.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from skipgraph.capture import capture
from skipgraph.graph import SkipGraph, build
from skipgraph.skips import find_skips
from skipgraph.sources.torchvision_operators import declare_missing

FIELDS = ("skips", "add", "concat", "gated", "short", "long", "identity", "projected", "edges")


def model_of(row: dict[str, Any]) -> torch.nn.Module:
    """Build the model of a row, on the meta device where its constructor allows that."""
    names: dict[str, Any] = {"torch": torch}
    exec(row["imports"], names)
    try:
        with torch.device("meta"):
            return eval(row["build"], names).eval()
    except Exception:
        return eval(row["build"], names).eval()


def inputs_of(row: dict[str, Any]) -> tuple[tuple[torch.Tensor, ...], dict[str, torch.Tensor]]:
    """The inputs of a row, without data."""
    shape = row["input"]
    if isinstance(shape, dict):
        return (), {name: torch.empty(sizes, device="meta") for name, sizes in shape.items()}
    return (torch.empty(shape, device="meta"),), {}


def detect(model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> SkipGraph:
    """Capture a model and find its skips."""
    graph = build(capture(model, args, kwargs))
    find_skips(graph)
    return graph


def compare(row: dict[str, Any], graph: SkipGraph) -> dict[str, tuple[int, int]]:
    """Fields in which the detector and the row differ: found, expected."""
    expected = {**row, "skips": row["skips_total"]}
    return {
        field: (getattr(graph.counts, field), expected[field])
        for field in FIELDS
        if expected.get(field) is not None and getattr(graph.counts, field) != expected[field]
    }


def main() -> int:
    """Run the file and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--only", default="*", help="run the rows whose label matches this pattern")
    parser.add_argument("-v", "--verbose", action="store_true", help="list every merge")
    options = parser.parse_args()
    declared = declare_missing()  # torchvision's custom operators, where only a CPU torch is installed
    rows = [row for row in json.loads(options.truth.read_text()) if fnmatch.fnmatch(row["model"], options.only)]
    agreed, seconds = 0, 0.0
    for row in rows:
        try:
            model = model_of(row)
            args, kwargs = inputs_of(row)
            graph = build(capture(model, args, kwargs))
            began = time.process_time()
            find_skips(graph)
            seconds += time.process_time() - began
        except Exception as error:  # a row that fails is a row that disagrees
            print(f"{row['model']:42} FAILED  {type(error).__name__}: {str(error).splitlines()[0][:100]}", flush=True)
            if options.verbose:
                raise
            continue
        different = compare(row, graph)
        agreed += not different
        counts = " ".join(f"{getattr(graph.counts, field):5}" for field in FIELDS)
        verdict = "ok" if not different else "  ".join(f"{k}: {a}, not {b}" for k, (a, b) in different.items())
        print(f"{row['model']:42} {counts}  {verdict}", flush=True)
        if options.verbose:
            for merge in graph.merges:
                shown = [(s.operand, s.source, s.kind, s.span, s.shortcut, s.edges) for s in merge.skips]
                print("   ", merge.id, merge.kind, merge.reason, merge.operands, shown)
    print(f"{agreed} of {len(rows)} rows agree; detection took {seconds:.2f} s")
    del declared
    return 0 if agreed == len(rows) else 1


if __name__ == "__main__":
    sys.exit(main())
