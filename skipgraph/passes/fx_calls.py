"""Calls in a graph of torch.fx: what they join, add, write over and ask for."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn

from skipgraph.capture import Captured

_IN_PLACE = {operator.iadd, operator.isub, operator.imul, operator.itruediv}
BINARY = {
    operator.add, operator.sub, operator.mul, operator.truediv, *_IN_PLACE, torch.add, torch.sub, torch.mul, torch.div,
    torch.multiply, torch.subtract,
    "add", "sub", "mul", "div", "add_", "sub_", "mul_", "div_",
}  # fmt: skip
CONCATS = (torch.cat, torch.concat, torch.concatenate)
_SUMS = {operator.add, operator.iadd, torch.add, "add", "add_"}
SPLITS = ("split", torch.split, "chunk", torch.chunk)
SIZED = {"view", "reshape", "expand", torch.reshape}  # calls that name the sizes of their result
UNFLATTENS = ("unflatten", torch.unflatten)
_VIEWS_OR_COPIES = {
    "reshape", "reshape_as", "flatten", "unflatten", "ravel", "contiguous", "to", "float", "type_as",
    torch.reshape, torch.flatten, torch.unflatten, torch.ravel,
}  # fmt: skip
_ASKING = {"size", "dim", "numel", "stride"}
_ASKED = {"shape", "device", "dtype", "ndim", "is_cuda"}


def plain_sum(node: fx.Node) -> bool:
    """Whether a node adds two tensors, and does nothing else."""
    plain = node.target in _SUMS and len(node.args) == 2 and not node.kwargs
    return plain and all(isinstance(one, fx.Node) and "shape" in one.meta for one in node.args)


def joined(concat: fx.Node) -> list[fx.Node]:
    """The operands of a concat."""
    return list(concat.args[0] if concat.args else concat.kwargs["tensors"])  # type: ignore[arg-type]


def let_join(concat: fx.Node, operands: Sequence[fx.Node]) -> None:
    """Give a concat other operands."""
    if concat.args:
        concat.args = (list(operands), *concat.args[1:])
    else:
        concat.kwargs = {**concat.kwargs, "tensors": list(operands)}


def inputs_of(arguments: fx.Node | tuple[Any, Any]) -> list[fx.Node]:
    """The nodes among the arguments of a call, in order, repeated ones each time."""
    given = (arguments.args, arguments.kwargs) if isinstance(arguments, fx.Node) else arguments
    found: list[fx.Node] = []
    fx.map_arg(given, lambda one: found.append(one) or one)  # type: ignore[func-returns-value]
    return found


def by_parameter(names: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call by the names of the parameters that it has."""
    return {**dict(zip(names, args, strict=False)), **kwargs}


def axis_of(concat: fx.Node) -> int:
    """The axis that a concat joins along, counted from the front."""
    axis: Any = concat.args[1] if len(concat.args) > 1 else concat.kwargs.get("dim", concat.kwargs.get("axis", 0))
    return int(axis) % len(concat.meta["shape"])


def name_of(node: fx.Node) -> str:
    """What a call of a function or method calls, in a word."""
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))


def asks(node: fx.Node) -> bool:
    """Whether a call asks for a size, or another property that all operands of a concat share."""
    if node.op == "call_method":
        return node.target in _ASKING
    return node.target is getattr and node.args[1] in _ASKED


def writes(captured: Captured, node: fx.Node) -> bool:
    """Whether a call writes over its first operand."""
    if node.op == "call_module":
        return bool(getattr(captured.get_submodule(str(node.target)), "inplace", False))
    if node.op == "call_method":
        return str(node.target).endswith("_") and not str(node.target).endswith("__")
    name = getattr(node.target, "__name__", "")
    return node.target in _IN_PLACE or node.kwargs.get("inplace") is True or name.endswith("_")


def is_split(node: fx.Node) -> bool:
    """Whether a call makes several tensors of stretches of one, which others take one by one."""
    return node.target in SPLITS and all(takes_one(user) for user in node.users)


def takes_one(node: fx.Node) -> bool:
    """Whether a call takes one of several tensors."""
    return node.target is operator.getitem and isinstance(node.args[1], int)


def may_view(captured: Captured, node: fx.Node) -> bool:
    """Whether a call copies one tensor, and hands on a view of another."""
    if node.op == "call_module":
        return isinstance(captured.get_submodule(str(node.target)), (nn.Flatten, nn.Unflatten))
    return node.target in _VIEWS_OR_COPIES


def sweep(graph: fx.Graph, node: fx.Node) -> list[fx.Node]:
    """Take out a call that nobody reads, and what it alone was there for; all that is gone is returned."""
    inputs = node.all_input_nodes
    graph.erase_node(node)
    gone = [node]
    for one in inputs:
        if not one.users and not one._erased and one.op != "placeholder":
            gone += sweep(graph, one)
    return gone


def place_sizes(node: fx.Node) -> None:
    """Give the tensor and the sizes of a call of `SIZED` by their places, if they are given by name."""
    given = dict(node.kwargs)
    tensor = node.args[:1] or tuple(given.pop(name) for name in ("input", "self") if name in given)
    sizes = node.args[1:] or tuple(given.pop(name) for name in ("size", "shape") if name in given)
    if tensor and sizes:
        node.args, node.kwargs = (*tensor, *sizes), given


def sizes_of(node: fx.Node) -> list[Any]:
    """The sizes that a call of `SIZED` is given."""
    _, *sizes = node.args
    nested = len(sizes) == 1 and isinstance(sizes[0], (list, tuple))
    return list(sizes[0] if nested else sizes)  # type: ignore[arg-type]


def leaves(size: fx.Node) -> list[fx.Node]:
    """What a size is computed from: the calls that ask for sizes, and what else is no arithmetic."""
    if asks(size) or size.op != "call_function":
        return [size]
    return [leaf for one in size.all_input_nodes for leaf in leaves(one)]


def resized(args: Any, axis: int, length: int) -> tuple[Any, ...]:
    """The arguments of a view, reshape or expansion with another size along ``axis``."""
    tensor, *sizes = args
    nested = len(sizes) == 1 and isinstance(sizes[0], (list, tuple))
    wanted = list(sizes[0] if nested else sizes)
    if wanted[axis] != -1:
        wanted[axis] = length
    return (tensor, type(sizes[0])(wanted)) if nested else (tensor, *wanted)
