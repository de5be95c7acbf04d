"""The tensors of a model as safetensors: the same bytes for the same tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from skipgraph.emit.epilogue import tables


def weights(model: nn.Module) -> bytes:
    """The content of ``weights.safetensors``: the state dict, a tensor that has several names under the first.

    ``load`` in the emitted file gives it back under all of them.
    """
    return _saved(model.state_dict())


def extra_tables(model: nn.Module) -> bytes | None:
    """The content of ``tables.safetensors``: large constants that no state dict has; None if there are none."""
    found = tables(model)
    return _saved(found) if found else None


def _saved(named: Mapping[str, torch.Tensor]) -> bytes:
    from safetensors.torch import save

    seen: set[int] = set()
    first: dict[str, torch.Tensor] = {}
    for name, tensor in named.items():
        if tensor.untyped_storage().data_ptr() in seen and tensor.numel():
            same = any(tensor.data_ptr() == one.data_ptr() and tensor.shape == one.shape for one in first.values())
            if same:
                continue
        seen.add(tensor.untyped_storage().data_ptr())
        first[name] = tensor.detach()
    return bytes(save({name: tensor.cpu().contiguous().clone() for name, tensor in first.items()}))
