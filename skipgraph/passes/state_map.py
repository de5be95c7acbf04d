"""Where each number of a state dict goes when a model is rewritten, and where it comes from on the way back."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of an old tensor that is a whole new tensor.

    ``new = old.narrow(axis, start, length)``; ``axis`` None means all of it (a counter that every part has its own
    copy of).
    """

    old: str
    new: str
    axis: int | None = None
    start: int = 0
    length: int = 0


@dataclass(frozen=True, slots=True)
class StateMap:
    """How the tensors of the rewritten model follow from those of the original, and back.

    It serves whatever has a number for each number of a parameter: state dicts, gradients, the moments of SGD and
    Adam. What looks at whole tensors (LAMB's and Adafactor's scales, Muon's matrices, clipping by tensor) sees other
    tensors after a rewrite.

    Attributes
    ----------
    pieces : tuple of Piece
        Of every tensor that was cut. A name that stands in none of them keeps its name and its tensor.
    """

    pieces: tuple[Piece, ...] = ()

    def forward(self, old: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The new model's tensors from the old one's; pieces have memory of their own.

        Names that are missing in ``old`` (parameters without a gradient) are missing in the result.
        """
        by_old: dict[str, list[Piece]] = defaultdict(list)
        for piece in self.pieces:
            by_old[piece.old].append(piece)
        new: dict[str, torch.Tensor] = {}
        for name, tensor in old.items():
            if name not in by_old:
                new[name] = tensor
            for piece in by_old.get(name, ()):
                new[piece.new] = cut(tensor, piece)
        return new

    def backward(self, new: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The old model's tensors from the new one's; of copies the first is taken.

        Raises
        ------
        KeyError
            If some pieces of a tensor are there and others are not.
        """
        by_old: dict[str, list[Piece]] = defaultdict(list)
        owner = {piece.new: piece.old for piece in self.pieces}
        for piece in self.pieces:
            by_old[piece.old].append(piece)
        old: dict[str, torch.Tensor] = {}
        for name, tensor in new.items():
            if name not in owner:
                old[name] = tensor
            elif owner[name] not in old:
                old[owner[name]] = _joined([(piece, new[piece.new]) for piece in by_old[owner[name]]])
        return old

    def then(self, later: StateMap) -> StateMap:
        """Return this map followed by ``later``, which is applied to what it makes."""
        owner = {piece.new: piece for piece in self.pieces}
        pieces = {piece.new: piece for piece in self.pieces}
        for piece in later.pieces:
            first = owner.get(piece.old)
            if first is None:
                pieces[piece.new] = piece
                continue
            pieces.pop(piece.old, None)
            if piece.axis is None or first.axis is None:
                axis, start, length = first.axis, first.start, first.length
                if first.axis is None:
                    axis, start, length = piece.axis, piece.start, piece.length
            elif piece.axis == first.axis:
                axis, start, length = piece.axis, first.start + piece.start, piece.length
            else:
                raise ValueError(f"{piece.new} would be cut along two axes")
            pieces[piece.new] = Piece(first.old, piece.new, axis, start, length)
        return StateMap(tuple(pieces.values()))

    def as_json(self) -> list[dict[str, Any]]:
        """Plain data for ``plan.json``."""
        return [asdict(piece) for piece in self.pieces]

    @classmethod
    def from_json(cls, data: Iterable[Mapping[str, Any]]) -> StateMap:
        """What `as_json` wrote."""
        return cls(tuple(Piece(**entry) for entry in data))


def cut(tensor: torch.Tensor, piece: Piece) -> torch.Tensor:
    """A piece of ``tensor``, with memory of its own in the same memory format."""
    whole = tensor if piece.axis is None else tensor.narrow(piece.axis, piece.start, piece.length)
    for layout, rank in ((torch.channels_last, 4), (torch.channels_last_3d, 5)):
        dense = tensor.dim() == rank and not tensor.is_contiguous()
        if dense and tensor.is_contiguous(memory_format=layout):
            return whole.clone(memory_format=layout)
    return whole.clone(memory_format=torch.contiguous_format)


def _joined(parts: list[tuple[Piece, torch.Tensor]]) -> torch.Tensor:
    first, tensor = parts[0]
    if first.axis is None:
        return tensor
    return torch.cat([part for _, part in sorted(parts, key=lambda pair: pair[0].start)], first.axis)
