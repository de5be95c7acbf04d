"""Every law broken on purpose, on every fixture that uses it, to see whether verification notices.

    python benchmarks/mutations.py [--workers N] [SUBJECT …]

Prints for each fixture, rewrite and law "caught", "MISSED", or "-" where the fixture does not use what was broken. The
weights are freshly initialised, so that all channels of a norm are equal: what is caught there is caught because
verification draws weights of its own. The table is written to benchmarks/results/mutations.txt; exits with 1 if
anything was missed, or raised another error.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from skipgraph import ConcatToSum, SumToConcat
from skipgraph.errors import NothingToRewriteError
from tests.helpers import fixtures
from tests.helpers.mutations import SUBJECTS, Subject

RESULTS = Path(__file__).parent / "results" / "mutations.txt"
SMALLER = {"unet": (("width", 8),)}
REWRITES = {
    "concat to sum": ConcatToSum(),
    "with identities": SumToConcat(allow_identity=True),
    "in evaluation": SumToConcat(eval_only=True),
}


def subjects() -> dict[str, Subject]:
    """Every fixture with every rewrite, and the models that are made for this."""
    found = {name: subject for name, subject in SUBJECTS.items() if name in ("nested", "unlike")}
    for name in fixtures.names():
        for way, rewrite in REWRITES.items():
            found[f"{name}, {way}"] = Subject(name, rewrite, options=SMALLER.get(name, ()))
    return found


def outcomes(name: str) -> tuple[str, list[tuple[str, str]]]:
    """What became of each broken law; nothing if the rewrite finds nothing to do."""
    torch.set_num_threads(1)
    subject = subjects()[name]
    try:
        subject.run()
    except NothingToRewriteError:
        return name, []
    except Exception as error:
        return name, [("unbroken", f"{type(error).__name__}: {error}".splitlines()[0])]
    return name, [(mutation, subject.outcome(mutation)) for mutation in subject.mutations]


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subjects", nargs="*", help="'densenet, concat to sum' and the like; all by default")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    lines, counts = [], Counter[str]()
    with ProcessPoolExecutor(options.workers) as pool:
        for name, found in pool.map(outcomes, options.subjects or subjects()):
            for mutation, outcome in found:
                counts[outcome if outcome in ("caught", "-", "MISSED") else "error"] += 1
                lines.append(f"{name:36} {mutation:32} {outcome}")
                print(lines[-1], flush=True)
    told = f"{counts['caught']} caught, {counts['MISSED']} missed, {counts['error']} errors, {counts['-']} not used"
    print(told)
    if not options.subjects:
        RESULTS.write_text("\n".join([f"torch {torch.__version__}", "", *lines, "", told]) + "\n", encoding="utf-8")
    return int(bool(counts["MISSED"] or counts["error"]))


if __name__ == "__main__":
    sys.exit(main())
