"""Fake CPU tensors that know their values wherever those follow from constants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._mode_utils import no_dispatch
from torch.utils._pytree import tree_leaves

MOST_KNOWN = 4096  # elements of a tensor that is made without data, and whose values a forward may read
_MOST_DERIVED = 2**16  # elements of what is computed of such


class KnowingFakes(FakeTensorMode):
    """Fakes that carry on with real numbers what is computed of constants alone.

    PyTorch's own do so for what ``torch.tensor`` makes and for single numbers. Masks, position ids and lengths are made
    by ``ones``, ``arange`` and the like, and code that asks of them whether any is zero, or how long the longest is,
    asks for something that no input decides.
    """

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)

    def may_turn_const(self, t: torch.Tensor) -> bool:
        """Whether ``t``, computed of constants, is kept as one."""
        return t.numel() <= _MOST_DERIVED and t.device.type == "cpu" and t.layout is torch.strided

    def dispatch(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run one operator; what makes a small tensor out of plain numbers makes it with its values too."""
        given = kwargs or {}
        result = super().dispatch(func, types, args, given)
        if not isinstance(result, FakeTensor) or result.numel() > MOST_KNOWN or result.device.type != "cpu":
            return result
        if result.constant is None and _is_made_of_numbers(func, args, given):
            with no_dispatch():
                result.constant = func(*args, **given)
            self.fake_tensor_converter.add_constant_storage_mapping(result)
        return result


def _is_made_of_numbers(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether an operator has no tensor among its arguments, draws nothing, and leaves nothing as it was in memory."""
    return (
        isinstance(func, torch._ops.OpOverload)
        and torch.Tag.nondeterministic_seeded not in func.tags
        and not func._schema.name.startswith(("aten::empty", "aten::new_empty"))
        and not any(isinstance(leaf, torch.Tensor) for leaf in tree_leaves((args, kwargs)))
    )
