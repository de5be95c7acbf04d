"""What the kernel of a layer would allocate for itself if its operand or its weight had another size."""

from __future__ import annotations

import math

import torch

from skipgraph.cost.clock import itemsize
from skipgraph.graph import NodeAttributes
from skipgraph.ops.workspace import convolution_bytes


def part_workspace(layer: NodeAttributes, inputs: tuple[int, ...], axis: int, width: int) -> int:
    """Workspace of ``layer`` if it read only ``width`` of the channels along ``axis`` of an input of shape ``inputs``.

    Where the rule for convolutions does not give what the whole layer was seen to need (another memory format, no
    convolution), copies of the operand are taken to shrink with it, and those of the result to stay.
    """
    if layer["op"] == "index_select":
        return int(layer["settings"]["index_bytes"])  # the places in the operand
    whole = layer.get("workspace_bytes", 0)
    if layer["op"] == "convolution" and layer.get("settings") and whole == _convolution(layer, inputs):
        return _convolution(layer, (inputs[0], width, *inputs[2:]))
    return max(min(whole, layer["bytes_out"]), whole * width // inputs[axis])


def operand_copy(layer: NodeAttributes, inputs: tuple[int, ...], axis: int, width: int) -> int:
    """Bytes of what a part of ``layer`` reads in the place of its operand: of a selection, that and zeros behind it."""
    if layer["op"] != "index_select":
        return 0
    return math.prod(inputs) // inputs[axis] * (width + 1) * itemsize(layer["dtype"])


def _convolution(layer: NodeAttributes, inputs: tuple[int, ...]) -> int:
    settings = layer["settings"]
    output = layer["shape"]
    weight = (inputs[1], output[1]) if settings["transposed"] else (output[1], inputs[1])
    return merged_workspace(
        inputs, (*weight, *settings["kernel"]), output, settings["stride"], settings["padding"], settings["dilation"],
        layer["dtype"], transposed=settings["transposed"],
    )  # fmt: skip


def merged_workspace(
    inputs: tuple[int, ...], weight: tuple[int, ...], output: tuple[int, ...], stride: tuple[int, ...],
    padding: tuple[int, ...], dilation: tuple[int, ...], dtype: str, *, transposed: bool = False,
) -> int:  # fmt: skip
    """Workspace of a convolution without groups."""
    dilated = any(step != 1 for step in dilation)
    return convolution_bytes(
        tuple(inputs), weight, tuple(output), tuple(stride), tuple(padding), dilated, transposed, 1, itemsize(dtype),
        False, torch.get_num_threads(),
    )  # fmt: skip
