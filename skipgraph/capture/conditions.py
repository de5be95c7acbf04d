"""The conditions under which a forward is watched."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def undisturbed() -> Iterator[None]:
    """No garbage collection (thousands of records are made, none of them garbage), no fused encoder layer (it shows
    no sum), and no log of what torch cannot do (the caller tells the user in its own words)."""
    collecting = gc.isenabled()
    fast_path = torch.backends.mha.get_fastpath_enabled()
    threshold = logging.root.manager.disable
    gc.disable()
    torch.backends.mha.set_fastpath_enabled(False)
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(threshold)
        torch.backends.mha.set_fastpath_enabled(fast_path)
        if collecting:
            gc.enable()
