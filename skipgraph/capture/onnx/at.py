"""What a converter sees of the one ONNX node that it converts, and the calls that it makes of it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn

if TYPE_CHECKING:
    import onnx_ir as ir

    from skipgraph.capture.onnx.reader import Reader

Operand = Any  # torch.Tensor where it depends on no model input, else torch.fx.Node
Converter = Callable[["At"], Any]

_CONVERTERS: dict[str, Converter] = {}


class UnsupportedError(Exception):
    """A use of an operator that has no counterpart in PyTorch: why, in one sentence."""


def converts(*names: str) -> Callable[[Converter], Converter]:
    """Register what makes calls of PyTorch of ONNX operators; those of other domains are named ``domain::Name``.

    Raises
    ------
    ValueError
        If one of them is registered already.
    """

    def register(converter: Converter) -> Converter:
        for name in names:
            if name in _CONVERTERS:
                raise ValueError(f"the ONNX operator {name!r} is registered twice")
            _CONVERTERS[name] = converter
        return converter

    return register


def converter_of(node: ir.Node) -> Converter | None:
    """The converter of a node; None if there is none."""
    plain = node.domain in ("", "ai.onnx")
    return _CONVERTERS.get(node.op_type if plain else f"{node.domain}::{node.op_type}")


def converted() -> frozenset[str]:
    """The names of all operators that have converters."""
    return frozenset(_CONVERTERS)


class At:
    """One node: its operands and attributes, and the calls that are made of it.

    Operands that depend on no model input are tensors, and calls on such alone are done at once. All others are nodes
    of the graph that is being made.
    """

    def __init__(self, reader: Reader, node: ir.Node, version: int) -> None:
        self.node = node
        self.version = version  # of the operator set
        self._reader = reader

    def of(self, node: ir.Node) -> At:
        """The same view of another node of the operator set."""
        return At(self._reader, node, self.version)

    # -- looking -----------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.node.inputs)

    def maybe(self, place: int) -> Operand | None:
        """An operand; None if it is left out."""
        inputs = self.node.inputs
        value = inputs[place] if place < len(inputs) else None
        return None if value is None else self._reader.operand(value)

    def __getitem__(self, place: int) -> Operand:
        operand = self.maybe(place)
        if operand is None:
            raise UnsupportedError(f"its input {place} is left out")
        return operand

    def operands(self) -> list[Operand]:
        """All operands."""
        return [self[place] for place in range(len(self))]

    def constant(self, place: int) -> torch.Tensor | None:
        """An operand that depends on no model input; None if it is left out."""
        operand = self.maybe(place)
        if isinstance(operand, fx.Node):
            raise UnsupportedError(f"its input {self.node.inputs[place].name} depends on data")  # type: ignore[union-attr]
        return operand

    def numbers(self, place: int) -> list[Any] | None:
        """The numbers of an operand that depends on no model input; None if it is left out."""
        tensor = self.constant(place)
        return None if tensor is None else tensor.reshape(-1).tolist()

    def number(self, place: int) -> Any:
        """The only number of an operand; None if it is left out."""
        numbers = self.numbers(place)
        return numbers[0] if numbers else None

    def attribute(self, name: str, default: Any = None) -> Any:
        """The value of an attribute: a number, a string, a list of those, or an `onnx_ir` object."""
        found = self.node.attributes.get(name)
        if found is None:
            return default
        value = found.value
        return list(value) if isinstance(value, (tuple, list)) else value

    def listed(self, name: str, place: int) -> list[int] | None:
        """Numbers that are an attribute in old operator sets, and an operand in newer ones."""
        found = self.attribute(name)
        return found if found is not None else self.numbers(place)

    def shape(self, operand: Operand) -> tuple[int, ...]:
        """The shape of an operand."""
        return tuple(operand.meta["value"].shape if isinstance(operand, fx.Node) else operand.shape)

    def dtype(self, operand: Operand) -> torch.dtype:
        """The dtype of an operand."""
        found: torch.dtype = (operand.meta["value"] if isinstance(operand, fx.Node) else operand).dtype
        return found

    def rank(self, operand: Operand) -> int:
        """The number of axes of an operand."""
        return len(self.shape(operand))

    def axis(self, operand: Operand, axis: int) -> int:
        """An axis of an operand, counted from the front."""
        rank = self.rank(operand)
        if not -rank <= axis < max(rank, 1):
            raise UnsupportedError(f"it has an axis {axis}, and its operand {rank} axes")
        return axis % rank if rank else 0

    def is_read(self, place: int) -> bool:
        """Whether anything reads a result."""
        outputs = self.node.outputs
        return place < len(outputs) and (bool(outputs[place].uses()) or outputs[place].is_graph_output())

    # -- calling -----------------------------------------------------------------------------------------------------

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What ``function`` makes of operands and plain values."""
        return self._reader.call(self.node, "call_function", function, args, kwargs)

    def method(self, name: str, *args: Any) -> Any:
        """What a method of the first operand makes."""
        return self._reader.call(self.node, "call_method", name, args, {})

    def layer(self, module: nn.Module, tensors: Mapping[str, torch.Tensor | None], *operands: Operand) -> Any:
        """What a layer of torch.nn makes of operands.

        Parameters
        ----------
        module : torch.nn.Module
            Without data: made on the meta device.
        tensors : mapping
            Its parameters and buffers.
        *operands
            What it is called with.
        """
        return self._reader.layer(self.node, module, tensors, operands)

    def unpacked(self, made: Any) -> tuple[Any, ...]:
        """The tensors, or tuples of such, of a call that makes several."""
        if not isinstance(made, fx.Node):
            return tuple(made)
        return tuple(self._reader.piece(self.node, made, place) for place in range(len(made.meta["value"])))

    def renamed(self, tensor: torch.Tensor, original: torch.Tensor, layout: Hashable) -> torch.Tensor:
        """A tensor that stands for one of the file in another layout: the same one each time, under the same name."""
        return self._reader.renamed(tensor, original, layout)


def integers(values: Sequence[Any]) -> list[int]:
    """Numbers as plain integers."""
    return [int(value) for value in values]
