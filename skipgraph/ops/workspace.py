"""What PyTorch's CPU kernels allocate for themselves, besides their results.

The peak of a real forward often lies inside a kernel: oneDNN's convolution computes in a blocked layout, copies its
operands into it and its result out of it. The rules here were read off the allocator's events; each is a pure
function of shapes, strides and the machine (vector width, number of threads). The families' files register them as
the ``workspace`` facts of their operators.
"""

from __future__ import annotations

import math
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from skipgraph.capture.program import Composite, Operator, Value

Shape = tuple[int, ...]
_REMEMBERED = 1 << 16  # distinct shapes
_STRIP = {16: 28, 8: 3}  # results along a row that oneDNN keeps in registers, by block
_UNFOLDED = 1 << 20  # bytes a thread unfolds at once in oneDNN's convolution by matrix products, about


@cache
def _block() -> int:
    """Channels in one block of oneDNN's layout: a vector register of float32."""
    return 16 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 8


def _padded(channels: int) -> int:
    return -(-channels // _block()) * _block()


@lru_cache(maxsize=_REMEMBERED)
def dense(shape: Shape, stride: Shape) -> bool:
    """Whether a tensor lies in memory in the order of its axes."""
    step = 1
    for size, actual in zip(reversed(shape), reversed(stride), strict=True):
        if size != 1 and actual != step:
            return False
        step *= size
    return True


@lru_cache(maxsize=_REMEMBERED)
def _channels_last(shape: Shape, stride: Shape) -> bool:
    """Whether a tensor (N, C, …) lies in memory as (N, …, C), and not as (N, C, …) as well."""
    if len(shape) < 4 or dense(shape, stride):
        return False
    return dense((shape[0], *shape[2:], shape[1]), (stride[0], *stride[2:], stride[1]))


def dense_copy(operator: Operator) -> int:
    """Kernels that read a dense input copy any other first."""
    value: Value = operator.inputs[0]
    return 0 if dense(value.shape, value.stride) else value.nbytes


def rolled(operator: Operator) -> int:
    """Rolling along several axes goes axis by axis, with a copy between."""
    axes = operator.args[2] if len(operator.args) > 2 else ()
    return operator.inputs[0].nbytes if len(axes) > 1 else 0


def upsampling(operator: Operator) -> int:
    """Small images are resampled in channels-last order: a copy of the input and one of the result."""
    value, result = operator.inputs[0], operator.outputs[0]
    if len(value.shape) != 4 or value.shape[1] == 1 or sum(result.shape[2:]) > 128:
        return 0
    if _channels_last(value.shape, value.stride):
        return 0
    return value.nbytes + result.nbytes


# -- convolution -----------------------------------------------------------------------------------------------------


def convolution(operator: Operator) -> int:
    """Blocked copies of input, weight and result (oneDNN), or the unfolded input (small problems)."""
    if len(operator.args) < 9:  # one of oneDNN's own, which allocates inside the same way but is never captured
        return 0
    value, weight = operator.inputs[:2]
    transposed, groups = bool(operator.args[6]), int(operator.args[8])
    last = _channels_last(value.shape, value.stride)
    copied = 0 if last or dense(value.shape, value.stride) else value.nbytes
    return copied + convolution_bytes(
        value.shape,
        weight.shape,
        operator.outputs[0].shape,
        tuple(operator.args[3]),
        tuple(operator.args[4]),
        any(step != 1 for step in operator.args[5]),
        transposed,
        groups,
        value.dtype.itemsize,
        last or _channels_last(weight.shape, weight.stride),
        torch.get_num_threads(),
    )


@lru_cache(maxsize=_REMEMBERED)
def convolution_bytes(
    inputs: Shape, weight: Shape, output: Shape, stride: Shape, padding: Shape, dilated: bool, transposed: bool,
    groups: int, itemsize: int, channels_last: bool, threads: int,
) -> int:  # fmt: skip
    """What a convolution of tensors of these shapes allocates besides its result."""
    batch, channels = inputs[:2]
    kernel, positions, places = math.prod(weight[2:]), math.prod(output[2:]), math.prod(inputs[2:])
    pointwise = kernel == 1
    strided = any(step != 1 for step in stride)
    if not _by_onednn(inputs, weight, strided or dilated, groups, threads) or (transposed and len(inputs) > 4):
        if transposed:
            return itemsize * weight[1] * kernel * places
        return 0 if pointwise and not strided else itemsize * batch * channels * kernel * positions
    weight_bytes = itemsize * math.prod(weight)
    if channels_last:
        return 2 * weight_bytes
    result = itemsize * math.prod(output)
    per_group_in, per_group_out = channels // groups, output[1] // groups
    depthwise = groups > 1 and per_group_in == 1
    if transposed:
        copies = itemsize * math.prod(inputs)
        return max(2 * result, (threads + 1) * copies + weight_bytes)
    # No direct kernel for odd groups, or for padding wider than the strip of results that one kernel call makes.
    odd = groups > 1 and not (depthwise and per_group_out == 1) and (per_group_in % 4 or per_group_out % 4)
    if odd or padding[-1] > min(output[-1], _STRIP[_block()]):
        unfolded = 0 if pointwise else min(itemsize * per_group_in * kernel * positions, _UNFOLDED)
        return max(result, threads * unfolded)
    if groups > 1 and not depthwise:
        return max(result, itemsize * math.prod(inputs) + weight_bytes)
    # The first layer of a network reads its few channels in place.
    in_place = channels < _block() and not pointwise and groups == 1
    blocked_input = 0 if in_place else itemsize * batch * _padded(channels) * places
    blocked_result = itemsize * batch * _padded(output[1]) * positions
    rows = _padded(output[1])
    columns = 1 if depthwise else channels if in_place else _padded(channels)
    gathered = threads * itemsize * _padded(channels) * positions if pointwise and strided else 0
    copies = blocked_input + itemsize * rows * columns * kernel + gathered
    return max(blocked_result, copies + blocked_result - result)


def _by_onednn(inputs: Shape, weight: Shape, strided_or_dilated: bool, groups: int, threads: int) -> bool:
    """PyTorch's own condition for handing a float convolution to oneDNN."""
    last = weight[-2:] if len(weight) > 3 else (1, weight[-1])  # a 1-d convolution runs as a flat 2-d one
    shape = inputs if len(inputs) > 3 else (*inputs[:2], 1, inputs[2])
    worthwhile = strided_or_dilated or inputs[0] >= 16 or last != (1, 1) or threads > 1
    large = groups > 1 or min(last) > 3 or inputs[0] > 1 or math.prod(shape[:4]) > 20480
    return worthwhile and large


# -- attention and recurrent layers ----------------------------------------------------------------------------------


def attention(stretch: Operator | Composite) -> int | None:
    """The fused kernel's log-sum-exp and the tiles of each thread; None where PyTorch computes it in parts.

    The tiles are of 32, 64 or 256 queries by 512 keys, in float32.
    """
    query, key, value = stretch.inputs[:3]
    if not (len(query.shape) == len(key.shape) == len(value.shape) == 4):
        return None
    if query.shape[0] != key.shape[0] or query.shape[-1] != value.shape[-1] or query.shape[1] % key.shape[1]:
        return None
    batch, heads, length, size = query.shape
    queries = 256 if length >= 768 else 64 if length >= 192 else 32
    keys = min(512, key.shape[-2])
    tiles = torch.get_num_threads() * queries * (keys + 2 + size)
    return 4 * (batch * heads * length + tiles)


def attention_saves(stretch: Operator | Composite) -> int:
    """The log-sum-exp of every query."""
    return 4 * math.prod(stretch.inputs[0].shape[:-1])


def recurrent(stretch: Operator | Composite) -> int | None:
    """The most that one layer holds besides the results of the last one.

    That is the results of the layer before, the gates of all positions, and for an LSTM, which is oneDNN's, both
    weights in another layout and some states; with two directions also parts that were joined already. A CPU computes
    the gates of all positions at once, the meta device position by position.
    """
    module: Any = getattr(stretch, "module", None)
    if module is None or module.proj_size:
        return None
    positions, batch = _positions(stretch, module)
    lstm = isinstance(module, torch.nn.LSTM)
    hidden, directions = module.hidden_size, 2 if module.bidirectional else 1
    result = positions * hidden
    copied = positions * module.input_size if lstm and module.batch_first else 0
    gates = module.weight_hh_l0.shape[0] * positions
    most = 0
    for layer, size in _layers(module):
        held = copied + gates + (directions * result if layer else 0)
        if lstm:
            states = 12 + 4 * module.num_layers * directions  # the kernel's own, and all first and last ones
            held += 4 * hidden * (size + hidden + 1) + states * batch * hidden
            held += (positions * size if size > hidden else 0) + (directions - 1) * result
        else:
            held += result + 3 * (directions - 1) * result
        most = max(most, held)
    return int(stretch.inputs[0].dtype.itemsize * most)


def recurrent_saves(stretch: Operator | Composite) -> int:
    """What oneDNN's LSTM keeps for the backward pass, about: its own record of each layer, and inner results."""
    module: Any = getattr(stretch, "module", None)
    if module is None:
        return 0
    positions, _ = _positions(stretch, module)
    hidden, directions = module.hidden_size, 2 if module.bidirectional else 1
    inner = (module.num_layers - 1) * directions * positions * hidden
    record = sum(positions * (17 * hidden + 14 * max(size, hidden)) // 2 for _, size in _layers(module))
    return int(stretch.inputs[0].dtype.itemsize * (inner + directions * record))


def _positions(stretch: Operator | Composite, module: Any) -> tuple[int, int]:
    """Positions of all sequences of a batch, and the batch size."""
    shape = stretch.inputs[0].shape
    batch = 1 if len(shape) == 2 else shape[0 if module.batch_first else 1]
    return math.prod(shape[:-1]), batch


def _layers(module: Any) -> list[tuple[int, int]]:
    """Each layer of a recurrent module with its input size."""
    inner = module.hidden_size * (2 if module.bidirectional else 1)
    return [(layer, inner if layer else module.input_size) for layer in range(module.num_layers)]
