"""What a forward on tensors without data leaves in the caches of functions."""

from __future__ import annotations

import functools
import gc
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor

_CACHE = type(functools.lru_cache(lambda: None))
_DEPTH = 5  # wrapper, its dictionary, an entry, a tuple or list, a tensor
# Packages whose caches hold no tensor of a model. They have most of the caches, and the fullest ones.
_OTHERS = frozenset({"torch", "sympy", "mpmath", "numpy", "scipy", "networkx", "skipgraph", *sys.stdlib_module_names})


@contextmanager
def nothing_left() -> Iterator[None]:
    """Clear those caches of ``functools`` that hold tensors without data after the block, and were added to in it.

    A table of positions that is kept for each size and device is kept for a fake CPU too, and the model would meet it
    when it is run the next time; and a second trace would not see how it is made.
    """
    before = {id(cached): cached.cache_info().misses for cached in _alive()}
    try:
        yield
    finally:
        for cached in _alive():
            told = cached.cache_info()
            if told.misses != before.get(id(cached), 0) and told.currsize and _holds_stand_ins(cached, _DEPTH):
                cached.cache_clear()


def _alive() -> Iterator[Any]:
    for reference in _caches(len(sys.modules)):
        cached = reference()
        if cached is not None:
            yield cached


@functools.lru_cache(maxsize=1)
def _caches(modules: int) -> list[weakref.ref[Any]]:
    """All caches that may hold a model's tensors; looked for again when another number of modules is imported."""
    found = (item for item in gc.get_objects() if type(item) is _CACHE)
    return [
        weakref.ref(item) for item in found if str(getattr(item, "__module__", "")).partition(".")[0] not in _OTHERS
    ]


def _holds_stand_ins(item: Any, depth: int) -> bool:
    if isinstance(item, torch.Tensor):
        return isinstance(item, FakeTensor) or item.device.type == "meta"
    if depth == 0 or isinstance(item, type) or hasattr(item, "__globals__"):
        return False
    return any(_holds_stand_ins(inside, depth - 1) for inside in gc.get_referents(item) if gc.is_tracked(inside))
