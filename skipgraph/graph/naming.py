"""Names of nodes and calls that a person recognises."""

from __future__ import annotations

from typing import Any

from skipgraph.capture.program import Call, Composite, Operator, Program
from skipgraph.ops import Kind


class Naming:
    """Hands out unique node ids: the path of a layer of torch.nn, else the module's path and the operator's name.

    Nodes of a file keep the names that they have there.
    """

    def __init__(self, program: Program) -> None:
        self._layers = {
            path
            for path, module in program.modules.items()
            if path and not module._modules and type(module).__module__.startswith("torch.nn.")
        }
        self._taken: dict[str, int] = {}
        self._calls: dict[Any, str] = {}
        # What a file calls its nodes and operators; other models have no names for their calls.
        self._labels: dict[str, tuple[str, str]] = getattr(program.model, "labels", {})

    def unique(self, name: str) -> str:
        """``name``, or ``name_1``, ``name_2``, … where it is taken."""
        count = self._taken.get(name)
        if count is None:
            self._taken[name] = 0
            return name
        while True:
            count += 1
            candidate = f"{name}_{count}"
            if candidate not in self._taken:
                self._taken[name] = count
                self._taken[candidate] = 0
                return candidate

    def operator_name(self, operator: Operator, op: str, kind: Kind) -> str:
        """The id of an operator's node: what a layer of torch.nn is there for bears the layer's own path."""
        if operator.call.site in self._labels:
            return self.unique(self._labels[operator.call.site][0])
        path = operator.call.module_call.path
        if path in self._layers and kind is not Kind.VIEW:
            return self.unique(path)
        return self.unique(f"{path}.{op}" if path else op)

    def composite_name(self, composite: Composite, op: str) -> str:
        """The id of a composite's node: its module's path if it is a module."""
        if composite.call.site in self._labels:
            return self.unique(self._labels[composite.call.site][0])
        path = composite.call.module_call.path
        if composite.module is not None and path:
            return self.unique(path)
        return self.unique(f"{path}.{op}" if path else op)

    def call_name(self, call: Call) -> str:
        """What the user's code called: ``torch.nn.Conv2d``, ``torch.cat``, ``Tensor.add_``."""
        if call.site in self._labels:
            return self._labels[call.site][1]
        if call.module_call.path in self._layers:
            return f"torch.nn.{type(call.module_call.module).__qualname__}"
        function = call.function
        name = self._calls.get(function)
        if name is None:
            name = self._calls[function] = _function_name(function)
        return name


def _function_name(function: Any) -> str:
    if function is None:
        return ""
    module = getattr(function, "__module__", None)
    name = getattr(function, "__name__", None) or str(function)
    owner = getattr(function, "__objclass__", None)
    if owner is not None:
        return f"Tensor.{name}"
    if module is None or module.startswith("torch._"):
        return f"torch.{name}"
    return f"{module.removesuffix('.functional') if module == 'torch.functional' else module}.{name}"
