"""The conditions under which a forward is watched."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from skipgraph.collection import no_collection

_COMPILED = "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG"


@contextmanager
def undisturbed() -> Iterator[None]:
    """No garbage collection, no fused encoder layer, no compilation, no log.

    The fused layer shows no sum; what torch cannot do the caller tells the user in its own words. A flexible attention
    that is compiled while somebody watches fails, and then in each later forward of the process.

    The first norm on meta tensors imports torch._dynamo. Exceptions that are caught on the way keep the frames of the
    forward, and so its tensors, until they are collected: it is imported beforehand, so that tensors die when they do.
    """
    importlib.import_module("torch._dynamo")
    flex = importlib.import_module("torch.nn.attention.flex_attention")
    fast_path = torch.backends.mha.get_fastpath_enabled()
    threshold = logging.root.manager.disable
    compiled = getattr(flex, _COMPILED, None)
    torch.backends.mha.set_fastpath_enabled(False)
    if compiled is not None:
        setattr(flex, _COMPILED, True)
    logging.disable(logging.CRITICAL)
    try:
        with no_collection():
            yield
    finally:
        logging.disable(threshold)
        if compiled is not None:
            setattr(flex, _COMPILED, compiled)
        torch.backends.mha.set_fastpath_enabled(fast_path)
