"""Which windows into one storage overlap."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from skipgraph.capture.program import Operator, Value


class Alias:
    """Makes the next version of a value whose memory was written through another window."""

    @staticmethod
    def of(value: Value, index: int, producer: Operator) -> Value:
        """The version of ``value`` that ``producer`` leaves behind."""
        return replace(value, index=index, producer=producer, origin="operator", name="")


def overlap(a: Value, b: Value) -> bool:
    """Whether two windows into one storage may share an element.

    Exact for boxes cut from one dense tensor (slices, chunks, selects), where the strides of both come from the same
    axes; otherwise the answer errs towards yes.
    """
    boxes = _boxes(a, b)
    if boxes is None:
        low_a, high_a = _extent(a)
        low_b, high_b = _extent(b)
        return low_a <= high_b and low_b <= high_a
    return all(start_a < stop_b and start_b < stop_a for (start_a, stop_a), (start_b, stop_b) in boxes)


def covers(a: Value, b: Value) -> bool:
    """Whether window ``a`` is known to contain every element of window ``b``."""
    boxes = _boxes(a, b)
    if boxes is None:
        return a.nbytes >= a.storage.nbytes
    return all(start_a <= start_b and stop_b <= stop_a for (start_a, stop_a), (start_b, stop_b) in boxes)


def _extent(value: Value) -> tuple[int, int]:
    last = sum((size - 1) * stride for size, stride in zip(value.shape, value.stride, strict=True) if size > 0)
    return value.offset, value.offset + last


def _boxes(a: Value, b: Value) -> list[tuple[tuple[int, int], tuple[int, int]]] | None:
    """Both windows as index ranges along common strides, or None where they have no common box."""
    sizes_a = {stride: size for size, stride in zip(a.shape, a.stride, strict=True) if size > 1}
    sizes_b = {stride: size for size, stride in zip(b.shape, b.stride, strict=True) if size > 1}
    strides = sorted({*sizes_a, *sizes_b, 1}, reverse=True)
    if 0 in strides or any(big % small for big, small in pairwise(strides)):
        return None
    rest_a, rest_b = a.offset, b.offset
    boxes = []
    for position, stride in enumerate(strides):
        start_a, rest_a = divmod(rest_a, stride)
        start_b, rest_b = divmod(rest_b, stride)
        box = (start_a, start_a + sizes_a.get(stride, 1)), (start_b, start_b + sizes_b.get(stride, 1))
        if position and max(box[0][1], box[1][1]) > strides[position - 1] // stride:
            return None
        boxes.append(box)
    return boxes
