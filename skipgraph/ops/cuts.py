"""How layers are cut along the channels that they read: which tensors, along which axis, and which numbers count them.

These are facts about calls of torch.nn and torch.nn.functional, where the tables beside this file are about the
operators that the calls dispatch to.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


@dataclass(frozen=True, slots=True)
class Cut:
    """How a layer is cut into one part an operand of what it reads.

    Attributes
    ----------
    tensors : dict
        Parameter or buffer -> the axis that is cut in proportion to the operands' widths.
    counts : tuple of str
        Attributes, or arguments, that count channels or groups, and shrink in proportion.
    once : tuple of str
        Tensors that the first part alone has: a bias is added once.
    selects : str
        The argument that names, for each channel of the result, the one that it is a copy of.
    """

    tensors: Mapping[str, int] = field(default_factory=dict)
    counts: tuple[str, ...] = ()
    once: tuple[str, ...] = ()
    selects: str = ""


@dataclass(frozen=True, slots=True)
class Layer:
    """The cuts of a layer.

    ``contracts`` is that of a linear layer, which mixes its input channels, into summands (law 3); ``distributes`` that
    of one which works channel by channel, or group by group (law 2).
    """

    contracts: Cut | None = None
    distributes: Cut | None = None


_MODULES: dict[type[nn.Module], Layer] = {}
_FUNCTIONS: dict[Any, tuple[Layer, tuple[str, ...]]] = {}
_CALLED: dict[type[nn.Module], Any] = {}


def register_layer(layer: Layer, modules: Mapping[type[nn.Module], Any], functions: Mapping[Any, str]) -> None:
    """Register the cuts of module classes, and of functions with the names of their arguments in order.

    With a class stands the function that its forward is, given its attributes of these names, and None where it does
    more: counts its calls, follows running statistics.
    """
    for module, function in modules.items():
        _MODULES[module] = layer
        if function is not None:
            _CALLED[module] = function
    for function, arguments in functions.items():
        _FUNCTIONS[function] = layer, tuple(arguments.split())


def cut_of_module(module: nn.Module, *, contracts: bool) -> Cut | None:
    """How a module is cut; None if nothing is known of its class.

    A module that has no tensors is its own part: an empty `Cut`.
    """
    layer = _MODULES.get(type(module))
    if layer is None:
        bare = not contracts and not [*module.parameters(), *module.buffers()]
        return Cut() if bare else None
    if contracts:
        return layer.contracts if getattr(module, "groups", 1) == 1 else None
    if isinstance(module, nn.PReLU) and module.num_parameters == 1:
        return Cut()
    return layer.distributes


def cut_of_function(function: Any, *, contracts: bool) -> tuple[Cut, tuple[str, ...]] | None:
    """How the call of a function is cut, and the names of its arguments; None if nothing is known of it."""
    found = _FUNCTIONS.get(function)
    if found is None:
        return None
    cut = found[0].contracts if contracts else found[0].distributes
    return (cut, found[1]) if cut is not None else None


def function_of_module(module: nn.Module) -> tuple[Any, dict[str, Any]] | None:
    """The function that a layer calls on its input, and the other arguments, which are attributes of their names.

    None for one that does more, or pads by other than zeros.
    """
    function = _CALLED.get(type(module))
    if function is None or getattr(module, "padding_mode", "zeros") != "zeros":
        return None
    names = _FUNCTIONS[function][1][1:]
    return function, {name: getattr(module, name) for name in names}


_CONVOLUTION = "input weight bias stride padding dilation groups"
_TRANSPOSED = "input weight bias stride padding output_padding groups dilation"
_GROUPED = ("in_channels", "out_channels", "groups")

register_layer(
    Layer(
        Cut({"weight": 1}, ("in_channels",), ("bias",)),
        Cut({"weight": 0, "bias": 0}, _GROUPED),
    ),
    {nn.Conv1d: F.conv1d, nn.Conv2d: F.conv2d, nn.Conv3d: F.conv3d},
    dict.fromkeys((F.conv1d, F.conv2d, F.conv3d), _CONVOLUTION),
)
register_layer(
    Layer(
        Cut({"weight": 0}, ("in_channels",), ("bias",)),
        Cut({"weight": 0, "bias": 0}, _GROUPED),
    ),
    {
        nn.ConvTranspose1d: F.conv_transpose1d,
        nn.ConvTranspose2d: F.conv_transpose2d,
        nn.ConvTranspose3d: F.conv_transpose3d,
    },
    dict.fromkeys((F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d), _TRANSPOSED),
)
register_layer(
    Layer(Cut({"weight": 1}, ("in_features",), ("bias",))),
    {nn.Linear: F.linear},
    {F.linear: "input weight bias"},
)
_matrix_products: dict[Any, str] = dict.fromkeys((torch.matmul, torch.mm, operator.matmul, "matmul"), "input weight")
register_layer(Layer(Cut({"weight": -2})), {}, _matrix_products)
register_layer(Layer(Cut(selects="index")), {}, dict.fromkeys((torch.index_select, "index_select"), "input dim index"))

_STATISTICS = {"weight": 0, "bias": 0, "running_mean": 0, "running_var": 0}
register_layer(
    Layer(distributes=Cut(_STATISTICS, ("num_features",))),
    dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)),
    {
        F.batch_norm: "input running_mean running_var weight bias training momentum eps",
        torch.batch_norm: "input weight bias running_mean running_var training momentum eps cudnn_enabled",
    },
)
register_layer(
    Layer(distributes=Cut(_STATISTICS, ("num_features",))),
    dict.fromkeys((nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)),
    {F.instance_norm: "input running_mean running_var weight bias use_input_stats momentum eps"},
)
register_layer(
    Layer(distributes=Cut({"weight": 0, "bias": 0}, ("num_channels", "num_groups"))),
    {nn.GroupNorm: F.group_norm},
    {F.group_norm: "input num_groups weight bias eps"},
)
register_layer(
    Layer(distributes=Cut({"weight": 0}, ("num_parameters",))), {nn.PReLU: F.prelu}, {F.prelu: "input weight"}
)

# In evaluation these hand on the very tensor that they are given.
_IDLE = (
    nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout,
)  # fmt: skip
_IDLE_FUNCTIONS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout)
register_layer(
    Layer(distributes=Cut()),
    dict.fromkeys(_IDLE),
    dict.fromkeys((*_IDLE_FUNCTIONS, torch.dropout), "input p training inplace"),
)


_IDLE_METHODS = ("contiguous", "to", "float", "type_as")


def is_idle(call: Any) -> bool:
    """Whether a module, function or method may hand on its operand as it is, without an operator of its own."""
    return isinstance(call, _IDLE) or call in (*_IDLE_FUNCTIONS, *_IDLE_METHODS) or call is torch.dropout
