"""The conditions under which a forward is watched."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from skipgraph.collection import no_collection


@contextmanager
def undisturbed() -> Iterator[None]:
    """No garbage collection, no fused encoder layer, no log.

    The fused layer shows no sum; what torch cannot do the caller tells the user in its own words.

    The first norm on meta tensors imports torch._dynamo. Exceptions that are caught on the way keep the frames of the
    forward, and so its tensors, until they are collected: it is imported beforehand, so that tensors die when they do.
    """
    importlib.import_module("torch._dynamo")
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
