"""The conditions under which a forward is watched."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from skipgraph.collection import no_collection


@contextmanager
def undisturbed() -> Iterator[None]:
    """No garbage collection, no fused encoder layer, no log.

    The fused layer shows no sum; what torch cannot do the caller tells the user in its own words.
    """
    fast_path = torch.backends.mha.get_fastpath_enabled()
    threshold = logging.root.manager.disable
    torch.backends.mha.set_fastpath_enabled(False)
    logging.disable(logging.CRITICAL)
    try:
        with no_collection():
            yield
    finally:
        logging.disable(threshold)
        torch.backends.mha.set_fastpath_enabled(fast_path)
