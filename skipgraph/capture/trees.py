"""Tensors in nested inputs and outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch


def tensors(tree: Any) -> Iterator[torch.Tensor]:
    """All tensors in lists, tuples, mappings and dataclasses, in order."""
    for _, tensor in named_tensors({"": tree}):
        yield tensor


def named_tensors(tree: Any, prefix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """All tensors with their dotted place in the tree."""
    if isinstance(tree, torch.Tensor):
        yield prefix, tree
        return
    if isinstance(tree, Mapping):
        children = list(tree.items())
    elif isinstance(tree, (list, tuple)):
        children = list(enumerate(tree))
    elif is_dataclass(tree) and not isinstance(tree, type):
        children = [(field.name, getattr(tree, field.name)) for field in fields(tree)]
    else:
        return
    for name, child in children:
        yield from named_tensors(child, f"{prefix}.{name}" if prefix else str(name))


def map_tensors(function: Callable[[torch.Tensor], Any], tree: Any) -> Any:
    """The same tree with every tensor in it replaced; a tensor that occurs twice is replaced by one."""
    known: dict[int, Any] = {}

    def replaced(item: Any) -> Any:
        if isinstance(item, torch.Tensor):
            if id(item) not in known:
                known[id(item)] = function(item)
            return known[id(item)]
        if isinstance(item, Mapping):
            pairs = {key: replaced(value) for key, value in item.items()}
            return pairs if type(item) is dict else type(item)(pairs)  # type: ignore[call-arg]
        if isinstance(item, tuple) and hasattr(item, "_fields"):
            return type(item)(*[replaced(value) for value in item])
        if isinstance(item, (list, tuple)):
            return type(item)([replaced(value) for value in item])
        return item

    return replaced(tree)


def doubled(inputs: Any) -> Any | None:
    """The same inputs with every sample twice, where each tensor holds one: batch norms cannot train on that.

    None where there are more, or tensors that have no axis for samples.
    """
    if any(tensor.dim() == 0 or tensor.shape[0] != 1 for tensor in tensors(inputs)):
        return None
    return map_tensors(lambda tensor: torch.cat([tensor, tensor]), inputs)
