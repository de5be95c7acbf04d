"""New nodes and initialisers in an ONNX graph."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch

from skipgraph.capture.onnx.tensors import onnx_dtype, write

if TYPE_CHECKING:
    import onnx_ir as ir


class Scribe:
    """Puts nodes and initialisers into an ONNX graph, under names that are free."""

    def __init__(self, file: ir.Model) -> None:
        self.file = file
        self.version = file.opset_imports.get("", 1)
        self._names = {str(value.name) for value in all_values(file)} | {str(node.name) for node in file.graph}

    def free(self, name: str) -> str:
        """``name``, or that with a number behind it."""
        found, count = name, 0
        while found in self._names:
            count += 1
            found = f"{name}_{count}"
        self._names.add(found)
        return found

    def node(
        self, op_type: str, operands: Iterable[ir.Value | None], attributes: dict[str, Any], name: str, domain: str = ""
    ) -> ir.Value:
        """The result of a new node."""
        import onnx_ir as ir

        given = [ir.convenience.convert_attribute(key, value) if not isinstance(value, ir.Attr) else value
                 for key, value in attributes.items()]  # fmt: skip
        node = ir.Node(domain, op_type, list(operands), given, name=self.free(name))
        node.outputs[0].name = self.free(f"{node.name}_output")
        self.file.graph.append(node)
        return node.outputs[0]

    def initializer(self, tensor: torch.Tensor, name: str) -> ir.Value:
        """A tensor as an initialiser."""
        import onnx_ir as ir

        name = self.free(name)
        value = ir.Value(
            name=name,
            shape=ir.Shape(tuple(tensor.shape)),
            type=ir.TensorType(onnx_dtype(tensor.dtype)),
            const_value=write(tensor, name),
        )
        self.file.graph.register_initializer(value)
        return value

    def numbers(self, numbers: Iterable[int], name: str) -> ir.Value:
        """Sizes, axes or places as an initialiser."""
        return self.initializer(torch.tensor(list(numbers), dtype=torch.int64), name)


def all_values(file: ir.Model) -> Iterable[ir.Value]:
    """All values of a file: inputs, initialisers, and what nodes make."""
    for graph in file.graphs():
        yield from graph.inputs
        yield from graph.initializers.values()
        for node in graph:
            yield from node.outputs
