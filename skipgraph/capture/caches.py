"""What a forward on fake tensors leaves in the caches of functions."""

from __future__ import annotations

import functools
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch._subclasses.fake_tensor import FakeTensor

_CACHE = type(functools.lru_cache(lambda: None))
_DEPTH = 5  # wrapper, its dictionary, an entry, a tuple or list, a tensor


@contextmanager
def no_fakes_left() -> Iterator[None]:
    """Clear those caches of ``functools`` that hold fake tensors after the block.

    A table of positions that is kept for each size and device is kept for fake CPU tensors too, and the model would
    meet it when it is run the next time.
    """
    try:
        yield
    finally:
        for item in gc.get_objects():
            if type(item) is _CACHE and item.cache_info().currsize and _holds_fakes(item, _DEPTH):
                item.cache_clear()


def _holds_fakes(item: Any, depth: int) -> bool:
    if isinstance(item, FakeTensor):
        return True
    if depth == 0 or isinstance(item, type) or hasattr(item, "__globals__"):
        return False
    return any(_holds_fakes(inside, depth - 1) for inside in gc.get_referents(item) if gc.is_tracked(inside))
