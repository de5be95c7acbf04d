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
    no sum), and no log of what fake tensors cannot do (the caller tells the user in its own words)."""
    collecting = gc.isenabled()
    fast_path = torch.backends.mha.get_fastpath_enabled()
    log = logging.getLogger("torch._subclasses.fake_tensor")
    silent = log.disabled
    gc.disable()
    torch.backends.mha.set_fastpath_enabled(False)
    log.disabled = True
    try:
        yield
    finally:
        log.disabled = silent
        torch.backends.mha.set_fastpath_enabled(fast_path)
        if collecting:
            gc.enable()
