"""Every law broken on purpose, on every fixture that uses it, to see whether verification notices.

    python benchmarks/mutations.py [subject ...]

Prints for each fixture and law "caught", "MISSED", or "-" where the fixture does not use what was broken. The weights
are freshly initialised, so that all channels of a norm are equal: what is caught there is caught because verification
draws weights of its own.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.helpers.mutations import SUBJECTS


def main() -> int:
    """Print the table; the number of mutations that were missed."""
    torch.set_num_threads(1)
    missed = 0
    for name in sys.argv[1:] or SUBJECTS:
        subject = SUBJECTS[name]
        started = time.perf_counter()
        try:
            subject.run()
        except Exception as error:
            print(f"{name:20} {'(unbroken)':32} {type(error).__name__}: {error}".splitlines()[0], flush=True)
            continue
        print(f"{name:20} {'(unbroken)':32} passes, {time.perf_counter() - started:.1f} s", flush=True)
        for mutation in subject.mutations:
            started = time.perf_counter()
            outcome = subject.outcome(mutation)
            missed += outcome not in ("caught", "-")
            print(f"{'':20} {mutation:32} {outcome}, {time.perf_counter() - started:.1f} s", flush=True)
    return missed


if __name__ == "__main__":
    sys.exit(main())
