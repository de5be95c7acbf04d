"""What the schemas of operators say: their names, what they write, whether their results can be known beforehand."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from skipgraph.capture.trees import tensors


@dataclass(slots=True, frozen=True)
class Signature:
    """What the schema of an operator says."""

    name: str
    written: tuple[tuple[int, str], ...]  # positions and names of the arguments that are written in place
    predictable: bool  # returns fresh tensors alone, or the first operand, which it writes in place

    def written_tensors(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[torch.Tensor]:
        """The tensors of one call that it writes in place."""
        given = [args[place] if place < len(args) else kwargs.get(name) for place, name in self.written]
        return list(tensors(given))


@cache
def signature_of(overload: torch._ops.OpOverload) -> Signature:
    """Read the schema of an operator, once in a process."""
    schema = overload._schema
    name = schema.name.split("::", 1)[1]
    written = [
        (len(schema.arguments) if argument.kwarg_only else position, argument.name)
        for position, argument in enumerate(schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    if written and name.endswith("_") and not name.endswith("__"):
        name = name[:-1]
    return Signature(name, tuple(written), _is_predictable(overload, written))


def _is_predictable(overload: torch._ops.OpOverload, written: list[tuple[int, str]]) -> bool:
    returns = overload._schema.returns
    if written:
        alone = [place for place, _ in written] == [0] and len(returns) == 1 and returns[0].alias_info is not None
        return alone and torch.Tag.inplace_view not in overload.tags
    fresh = all(str(result.type) == "Tensor" and result.alias_info is None for result in returns)
    return fresh and bool(returns) and overload is not torch.ops.aten._unsafe_view.default  # its schema denies the view
