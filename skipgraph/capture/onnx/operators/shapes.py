"""Views, slices, concats, indices: what moves numbers and computes none."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from skipgraph.capture.onnx.at import At, Operand, UnsupportedError, converts, integers

_PADDINGS = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}


@converts("Constant")
def constant(at: At) -> Any:
    """A tensor, or numbers."""
    from skipgraph.capture.onnx.tensors import read

    (name, attribute), *_ = at.node.attributes.items()
    if name == "value":
        tensor = read(attribute.as_tensor(), data=True)
        if tensor is None:
            raise UnsupportedError("PyTorch has no tensors of its type")
        return tensor
    if name in ("value_float", "value_floats"):
        return torch.tensor(attribute.value, dtype=torch.float32)
    if name in ("value_int", "value_ints"):
        return torch.tensor(attribute.value, dtype=torch.int64)
    raise UnsupportedError(f"it holds a {name.removeprefix('value_')}")


@converts("ConstantOfShape")
def filled(at: At) -> Any:
    """One number all over."""
    from skipgraph.capture.onnx.tensors import read

    value = at.attribute("value")
    tensor = torch.zeros(1) if value is None else read(value, data=True)
    if tensor is None:
        raise UnsupportedError("PyTorch has no tensors of its type")
    return torch.full(integers(at.numbers(0) or []), tensor.item(), dtype=tensor.dtype)


@converts("Shape")
def shape(at: At) -> Any:
    """The sizes of a tensor, which its values do not matter for."""
    sizes = at.shape(at[0])
    return torch.tensor(sizes[at.attribute("start", 0) : at.attribute("end", len(sizes))], dtype=torch.int64)


@converts("Size")
def size(at: At) -> Any:
    """The number of elements."""
    return torch.tensor(math.prod(at.shape(at[0])), dtype=torch.int64)


@converts("Range")
def counted(at: At) -> Any:
    """From, to, and by."""
    start, stop, step = (at.number(place) for place in range(3))
    count = max(math.ceil((stop - start) / step), 0)
    return torch.arange(count, dtype=at.dtype(at[0])) * step + start


@converts("Reshape")
def reshaped(at: At) -> Any:
    """To sizes, of which 0 means the operand's own, and -1 what is left."""
    x, wanted = at[0], at.listed("shape", 1)
    own = at.shape(x)
    assert wanted is not None
    if not at.attribute("allowzero", 0):
        wanted = [own[place] if size == 0 else size for place, size in enumerate(wanted)]
    return at.call(torch.reshape, x, _of_any_batch(integers(wanted), own))


def _of_any_batch(sizes: list[int], own: Sequence[int]) -> list[int]:
    """The sizes of a view, that of the batch left open where one can be."""
    known = math.prod(size for size in sizes if size != -1)
    full = [math.prod(own) // known if size == -1 and known else size for size in sizes]
    return [-1, *full[1:]] if full and own and full[0] == own[0] and 0 not in full else sizes


@converts("Flatten")
def flattened(at: At) -> Any:
    """To two axes."""
    x = at[0]
    axis, own = at.attribute("axis", 1), at.shape(x)
    axis = axis + len(own) if axis < 0 else axis
    if axis == 1 and len(own) > 1:
        return at.call(torch.flatten, x, 1)
    return at.call(torch.reshape, x, [math.prod(own[:axis]), math.prod(own[axis:])])


@converts("Squeeze")
def squeezed(at: At) -> Any:
    """Axes of size one taken out."""
    x = at[0]
    axes = at.listed("axes", 1)
    if not axes:
        axes = [place for place, size in enumerate(at.shape(x)) if size == 1]
    for axis in sorted({at.axis(x, int(axis)) for axis in axes}, reverse=True):
        x = at.call(torch.squeeze, x, axis)
    return x


@converts("Unsqueeze")
def unsqueezed(at: At) -> Any:
    """Axes of size one put in."""
    x, axes = at[0], at.listed("axes", 1)
    assert axes is not None
    rank = at.rank(x) + len(axes)
    for axis in sorted(int(axis) % rank for axis in axes):
        x = at.call(torch.unsqueeze, x, axis)
    return x


@converts("Transpose")
def permuted(at: At) -> Any:
    """Axes in another order: backwards if none is given."""
    return at.call(torch.permute, at[0], at.attribute("perm", [*reversed(range(at.rank(at[0])))]))


@converts("Expand")
def expanded(at: At) -> Any:
    """Broadcast to sizes, or to the operand's own where those are larger."""
    x = at[0]
    wanted = torch.broadcast_shapes(at.shape(x), tuple(integers(at.numbers(1) or [])))
    return x if wanted == at.shape(x) else at.call(torch.broadcast_to, x, list(wanted))


@converts("Tile")
def tiled(at: At) -> Any:
    """Repeated along each axis."""
    return at.call(torch.tile, at[0], integers(at.numbers(1) or []))


@converts("Concat")
def concat(at: At) -> Any:
    """Along an axis."""
    operands = at.operands()
    return at.call(torch.cat, operands, at.axis(operands[0], at.attribute("axis")))


@converts("Split")
def split(at: At) -> Any:
    """Into parts of given sizes, or of one size."""
    x = at[0]
    axis = at.axis(x, at.attribute("axis", 0))
    sizes = at.listed("split", 1)
    if sizes is None:
        count = at.attribute("num_outputs", len(at.node.outputs))
        whole = at.shape(x)[axis]
        each = -(-whole // count)
        sizes = [min(each, whole - each * place) for place in range(count)]
    return at.unpacked(at.call(torch.split, x, integers(sizes), axis))


@converts("Slice")
def sliced(at: At) -> Any:
    """From, to, along axes, by steps."""
    x = at[0]
    starts, ends = at.listed("starts", 1), at.listed("ends", 2)
    assert starts is not None
    assert ends is not None
    axes = at.listed("axes", 3)
    axes = list(range(len(starts))) if axes is None else [at.axis(x, int(axis)) for axis in axes]
    steps = at.numbers(4) or [1] * len(starts)
    slices = [slice(None)] * at.rank(x)
    for axis, start, stop, step in zip(axes, starts, ends, steps, strict=True):
        if step < 0:
            size = at.shape(x)[axis]
            first, end = (int(one) + size if one < 0 else int(one) for one in (start, stop))
            places = list(range(min(max(first, 0), size - 1), min(max(end, -1), size), step))
            x = at.call(torch.index_select, x, axis, torch.tensor(places, dtype=torch.int64))
        elif (start, step) != (0, 1) or stop < at.shape(x)[axis]:
            slices[axis] = slice(int(start), int(min(stop, at.shape(x)[axis])), int(step))
    if all(one == slice(None) for one in slices):
        return x
    last = max(place for place, one in enumerate(slices) if one != slice(None))
    return at.call(operator.getitem, x, tuple(slices[: last + 1]))


@converts("Gather")
def gathered(at: At) -> Any:
    """Whole slices along one axis, by their places: rows of a table of weights are embeddings."""
    x, places = at[0], at[1]
    axis = at.axis(x, at.attribute("axis", 0))
    if isinstance(places, torch.Tensor):
        places = _from_the_front(at, places, axis)
        if places.dim() == 0:
            return at.call(torch.select, x, axis, int(places))
    elif isinstance(x, torch.Tensor) and x.dim() == 2 and axis == 0 and x.is_floating_point():
        return at.layer(nn.Embedding(x.shape[0], x.shape[1], device="meta"), {"weight": x}, places)
    own = at.shape(places)
    picked = at.call(torch.index_select, x, axis, at.call(torch.reshape, places, [-1]) if len(own) != 1 else places)
    if len(own) == 1:
        return picked
    sizes = at.shape(x)
    return at.call(torch.reshape, picked, [*sizes[:axis], *own, *sizes[axis + 1 :]])


@converts("GatherElements")
def gathered_elements(at: At) -> Any:
    """Single numbers along one axis."""
    axis = at.axis(at[0], at.attribute("axis", 0))
    return at.call(torch.gather, at[0], axis, _from_the_front(at, at[1], axis))


def _from_the_front(at: At, places: Operand, axis: int) -> Operand:
    """Places along an axis of the first operand, of which PyTorch takes none that count from the end.

    Those that depend on data are left as they are: PyTorch refuses negative ones.
    """
    if not isinstance(places, torch.Tensor):
        return places
    return torch.where(places < 0, places + at.shape(at[0])[axis], places)


@converts("GatherND")
def gathered_slices(at: At) -> Any:
    """Slices by places along several axes."""
    if at.attribute("batch_dims", 0):
        raise UnsupportedError("it gathers in each sample apart")
    if isinstance(at[1], torch.Tensor) and at[1].dim() == 1:
        return at.call(operator.getitem, at[0], tuple(at[1].tolist()))
    return at.call(operator.getitem, at[0], at.call(torch.unbind, at[1], -1))


@converts("ScatterElements")
def scattered_elements(at: At) -> Any:
    """Single numbers written over along one axis."""
    how = {"none": None, "add": "sum", "mul": "prod", "max": "amax", "min": "amin"}[at.attribute("reduction", "none")]
    axis = at.axis(at[0], at.attribute("axis", 0))
    places = _from_the_front(at, at[1], axis)
    if how is None:
        return at.call(torch.scatter, at[0], axis, places, at[2])
    return at.call(torch.scatter_reduce, at[0], axis, places, at[2], how)


@converts("ScatterND")
def scattered_slices(at: At) -> Any:
    """Slices written over, by places along several axes."""
    how = at.attribute("reduction", "none")
    if how not in ("none", "add"):
        raise UnsupportedError(f"it writes by {how}")
    return at.call(torch.index_put, at[0], at.call(torch.unbind, at[1], -1), at[2], how == "add")


@converts("Pad")
def padded(at: At) -> Any:
    """By a number, by reflection, by the edge, or around."""
    x, pads = at[0], at.listed("pads", 1)
    assert pads is not None
    value = at.attribute("value", 0.0) if at.version < 11 else at.number(2) or 0.0
    axes = at.numbers(3)
    rank = at.rank(x)
    by_axis = [(0, 0)] * rank
    chosen = list(range(rank)) if axes is None else [at.axis(x, int(axis)) for axis in axes]
    for axis, before, behind in zip(chosen, pads[: len(chosen)], pads[len(chosen) :], strict=True):
        by_axis[axis] = int(before), int(behind)
    while by_axis and by_axis[0] == (0, 0):
        by_axis.pop(0)
    if not by_axis:
        return x
    flat = [size for pair in reversed(by_axis) for size in pair]
    mode = _PADDINGS[at.attribute("mode", "constant")]
    return at.call(F.pad, x, flat, mode, value if mode == "constant" else None)


@converts("Trilu")
def triangle(at: At) -> Any:
    """The upper or the lower triangle."""
    return at.call(torch.triu if at.attribute("upper", 1) else torch.tril, at[0], int(at.number(1) or 0))


@converts("EyeLike")
def diagonal(at: At) -> Any:
    """Ones on a diagonal."""
    import onnx_ir as ir

    from skipgraph.capture.onnx.tensors import dtype_of

    rows, columns = at.shape(at[0])
    wanted = at.attribute("dtype")
    dtype = at.dtype(at[0]) if wanted is None else dtype_of(ir.DataType(wanted))
    if dtype is None:
        raise UnsupportedError("PyTorch has no tensors of its type")
    return (torch.arange(columns) - torch.arange(rows)[:, None] == at.attribute("k", 0)).to(dtype)


@converts("OneHot")
def one_hot(at: At) -> Any:
    """A one at each place, of a number of places; negative ones count from the end."""
    places, depth, values = at[0], int(at.number(1)), at.constant(2)
    assert values is not None
    negative = at.call(torch.lt, places, 0)
    places = at.call(torch.where, negative, at.call(operator.add, places, depth), places)
    rank = at.rank(places) + 1
    axis = at.attribute("axis", -1) % rank
    numbers = torch.arange(depth).reshape([depth, *[1] * (rank - 1 - axis)])
    off, on = values[0].item(), values[1].item()
    hit = at.call(torch.eq, at.call(torch.unsqueeze, places, axis), numbers)
    return at.call(operator.add, at.call(operator.mul, at.method("to", hit, values.dtype), on - off), off)


@converts("TopK")
def largest(at: At) -> Any:
    """The largest, or the smallest, and their places."""
    count = at.number(1) if at.version >= 10 else at.attribute("k")
    options = bool(at.attribute("largest", 1)), bool(at.attribute("sorted", 1))
    return at.unpacked(at.call(torch.topk, at[0], int(count), at.attribute("axis", -1), *options))


@converts("CumSum")
def summed_up(at: At) -> Any:
    """Up to each place."""
    if at.attribute("exclusive", 0) or at.attribute("reverse", 0):
        raise UnsupportedError("it leaves out the place itself, or runs backwards")
    return at.call(torch.cumsum, at[0], int(at.number(1)), dtype=at.dtype(at[0]))


@converts("NonZero")
def nonzero(at: At) -> Any:
    """The places of what is not zero, if they are known."""
    operand: Operand = at.constant(0)
    return torch.nonzero(operand).t()
