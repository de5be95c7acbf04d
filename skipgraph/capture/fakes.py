"""Fake CPU tensors that know their values wherever those follow from constants."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._mode_utils import no_dispatch
from torch.utils._pytree import tree_leaves, tree_map_only

MOST_KNOWN = 2**16  # elements of a tensor whose values a forward may read
_GROUPED = getattr(torch.ops.aten, "_grouped_mm", None) and torch.ops.aten._grouped_mm.default
_DEPENDS_ON_DATA = frozenset({torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape})


class KnowingFakes(FakeTensorMode):
    """Fakes beside which real numbers are carried on, where all is computed of constants.

    PyTorch's own do so for what ``torch.tensor`` makes and for single numbers. Masks, position ids and lengths are made
    by ``ones``, ``arange`` and the like, and code that asks of them whether any is zero, or how long the longest is,
    asks for something that no input decides.
    """

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)

    def may_turn_const(self, t: torch.Tensor) -> bool:
        """Whether ``t``, real and new, is kept as a constant."""
        return t.numel() <= MOST_KNOWN and t.device.type == "cpu" and t.layout is torch.strided

    def dispatch(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run one operator, and once more on the constants if it has no other tensors.

        Both are needed: the fakes are views of one another where the constants are.
        """
        given = (tuple(args), dict(kwargs or {}))
        if func is _GROUPED:
            return self._grouped(*given[0], **given[1])
        tensors = [leaf for leaf in tree_leaves(given) if isinstance(leaf, torch.Tensor)]
        known = bool(tensors) and all(getattr(one, "constant", None) is not None for one in tensors)
        if known and _chooses(func):
            return self._chosen(func, given)
        if not _is_determined(func) or not (known or not tensors):
            return super().dispatch(func, types, *given)
        real_args, real_kwargs = tree_map_only(FakeTensor, lambda one: one.constant, given)
        with _unknown(tensors):
            result = super().dispatch(func, types, *given)
        with no_dispatch():
            real = func(*real_args, **real_kwargs)
        for made, known in zip(tree_leaves(result), tree_leaves(real), strict=True):
            if isinstance(made, FakeTensor) and made.constant is None and self.may_turn_const(known):
                made.constant = known
                self.fake_tensor_converter.add_constant_storage_mapping(made)
        return result

    def _chosen(self, func: Any, given: tuple[tuple[Any, ...], dict[str, Any]]) -> Any:
        """The results of an operator whose shapes depend on values, which are known."""
        args, kwargs = tree_map_only(FakeTensor, lambda one: one.constant, given)
        with no_dispatch():
            real = func(*args, **kwargs)

        def fake(known: torch.Tensor) -> torch.Tensor:
            made: Any = self.from_tensor(known, static_shapes=True)
            made.constant = known
            self.fake_tensor_converter.add_constant_storage_mapping(made)
            return made  # type: ignore[no-any-return]

        return tree_map_only(torch.Tensor, fake, real)

    def _grouped(
        self,
        left: torch.Tensor,
        right: torch.Tensor,
        ends: torch.Tensor | None = None,
        bias: torch.Tensor | None = None,
        out_dtype: torch.dtype | None = None,
    ) -> torch.Tensor:
        """What `torch.nn.functional.grouped_mm` makes of any dtype: the kernel for fakes is for bfloat16 alone."""
        batch = left.shape[:-2] if right.dim() == 3 else ()
        if left.dim() == right.dim() == 2 and ends is not None:  # every group sums over rows of its own
            batch = ends.shape
        with self:
            return torch.empty((*batch, left.shape[-2], right.shape[-1]), dtype=out_dtype or left.dtype)


@contextmanager
def _unknown(tensors: Sequence[Any]) -> Iterator[None]:
    """The fakes without their constants, of which PyTorch would make new fakes with memory of their own."""
    constants = [tensor.constant for tensor in tensors]
    for tensor in tensors:
        tensor.constant = None
    try:
        yield
    finally:
        for tensor, constant in zip(tensors, constants, strict=True):
            tensor.constant = constant


def _chooses(func: Any) -> bool:
    """Whether the shape of what an operator returns depends on values, and it returns tensors of its own."""
    return (
        isinstance(func, torch._ops.OpOverload)
        and torch.Tag.dynamic_output_shape in func.tags
        and not func._schema.is_mutable
    )


def _is_determined(func: Any) -> bool:
    """Whether an operator draws nothing, shows nothing of what was in memory, and runs on fakes without values."""
    return (
        isinstance(func, torch._ops.OpOverload)
        and torch.Tag.nondeterministic_seeded not in func.tags
        and not _DEPENDS_ON_DATA.intersection(func.tags)
        and not func._schema.name.startswith(("aten::empty", "aten::new_empty"))
    )
