"""A law that is broken is noticed, on models with freshly initialised weights.

benchmarks/mutations.py breaks every law on more models.
"""

from __future__ import annotations

import pytest

from tests.helpers.mutations import CONCATS, SUBJECTS, SUMS

USED = {
    "nested": list(CONCATS),
    "unlike": list(SUMS),
    "unet": [name for name in CONCATS if name.startswith("3: ") and "bias" not in name],
    "uvit": [name for name in CONCATS if name.startswith("3: ")],
    "fcn8s": ["4: a term left out", "4: a term added twice", "4: bias dropped"],
    "wavenet": ["4: operands swapped", "4: a term left out", "4: a term added twice", "4: bias dropped"],
}


@pytest.mark.parametrize("subject", USED)
def test_whole_laws_pass(subject: str) -> None:
    SUBJECTS[subject].run()


@pytest.mark.parametrize(("subject", "mutation"), [(name, mutation) for name in USED for mutation in USED[name]])
def test_broken_laws_are_noticed(subject: str, mutation: str) -> None:
    assert SUBJECTS[subject].outcome(mutation) == "caught"
