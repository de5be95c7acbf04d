"""A captured program -> a `SkipGraph`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from skipgraph.capture.program import Call, Composite, Operator, Program, Value
from skipgraph.collection import no_collection
from skipgraph.graph.naming import Naming
from skipgraph.graph.roles import Resolutions
from skipgraph.graph.types import NodeAttributes, SkipGraph
from skipgraph.ops import Facts, Kind, facts_of

# With a single data operand these are no merges and no products: a bias, a positional embedding, a mask, a scale.
_ALONE = {
    Kind.SUM: Kind.LINEAR_MAP,
    Kind.DIFFERENCE: Kind.LINEAR_MAP,
    Kind.PRODUCT: Kind.LINEAR_MAP,
    Kind.MATMUL: Kind.LAYER,
    Kind.CONCAT: Kind.PAD,
    Kind.STACK: Kind.VIEW,
    Kind.SCATTER: Kind.PAD,
}
_LAYERS = {Kind.LAYER, Kind.RECURRENT, Kind.ATTENTION_LAYER}
_NONLINEAR = {
    Kind.ACTIVATION,
    Kind.GATE,
    Kind.ATTENTION,
    Kind.ATTENTION_LAYER,
    Kind.RECURRENT,
    Kind.PRODUCT,
    Kind.MATMUL,
    Kind.SAMPLE,
}

_INDICES = {torch.int64, torch.int32}


def build(program: Program) -> SkipGraph:
    """Build the graph of operators of a captured program.

    Nodes are the operators that ran, fused ones taken apart into what they compute and composite stretches put
    together; edges are the floating-point operands that depend on a model input.

    Returns
    -------
    SkipGraph
        Nodes and edges with the attributes of the first group of `NodeAttributes`. Merges, skips and costs are empty.
    """
    with no_collection():
        return _Builder(program).build()


class _Builder:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.graph = SkipGraph()
        self.naming = Naming(program)
        self.resolutions = Resolutions()
        self.node_of: dict[int, str] = {}  # value index -> node
        self.depends: set[int] = set()  # indices of values that depend on a model input

    def build(self) -> SkipGraph:
        graph = self.graph
        graph.graph["modules"] = {path: type(module).__name__ for path, module in self.program.modules.items()}
        graph.graph["index_edges"] = []
        for value in self.program.inputs:
            self._add_input(value)
        for unit in _units(self.program.operators):
            if isinstance(unit, Operator):
                self._add_operator(unit)
            else:
                self._add_composite(*unit)
        self._mark_outputs()
        self.resolutions.decide(graph)
        return graph

    # -- nodes -------------------------------------------------------------------------------------------------------

    def _add_input(self, value: Value) -> None:
        self.depends.add(value.index)
        node = self.naming.unique(value.name or "input")
        self._add_node(node, "input", Kind.INPUT, value, "", None, ())
        self.node_of[value.index] = node
        self.resolutions.add_input(node, value)

    def _add_node(
        self, node: str, op: str, kind: Kind, value: Value, name: str, call: Call | None, operators: tuple[int, ...]
    ) -> None:
        attributes = NodeAttributes(
            op=op,
            kind=kind.value,
            call=name,
            module=call.module_call.path if call else "",
            index=len(self.graph),
            shape=tuple(value.shape),
            dtype=str(value.dtype)[6:],
            layer=kind in _LAYERS,
            nonlinear=kind in _NONLINEAR,
            axis=None,
            axis_role=None,
            slice=None,
            operators=operators,
            site=call.site if call else "",
            positions=1,
            resamples=False,
            constant=False,
            live=False,
            output=False,
        )
        self.graph.add_node(node, **attributes)

    def _add_edges(self, node: str, operands: Sequence[tuple[int, str]]) -> None:
        for place, producer in operands:
            self.graph.add_edge(producer, node, key=place, operand=place)

    def _data(self, inputs: Sequence[Value]) -> list[tuple[int, str]]:
        """Position and producer of the operands that are edges: floating-point, and dependent on a model input."""
        return [
            (place, self.node_of[value.index])
            for place, value in enumerate(inputs)
            if value.index in self.depends and (value.dtype.is_floating_point or value.dtype.is_complex)
        ]

    def _adopt(self, outputs: Sequence[Value], node: str, *, depends: bool) -> None:
        for value in outputs:
            self.node_of[value.index] = node
            if depends:
                self.depends.add(value.index)

    def _add_operator(self, operator: Operator) -> None:
        if not operator.outputs:
            return
        facts = facts_of(operator.name)
        inputs = operator.inputs
        if operator.name == "copy":  # what was there before is gone
            inputs = inputs[1:]
        depends = facts.kind is not Kind.CREATE and any(value.index in self.depends for value in inputs)
        if facts.free and not depends:
            return
        operands = self._data(inputs) if depends else []
        if operator.name == "copy":
            operands = [(place + 1, producer) for place, producer in operands]
        if facts.kind is Kind.SLICE and len(operator.outputs) > 1:
            self._add_pieces(operator, facts, operands, depends)
            return
        if facts.expands and len(operands) > 1:
            node = self._add_expanded(operator, facts, operands)
        else:
            node = self._add_single(operator, facts, operands)
        for value in inputs:
            if value.index in self.depends and value.dtype in _INDICES:
                self.graph.graph["index_edges"].append([self.node_of[value.index], node])
        self._adopt(operator.outputs, node, depends=depends)
        self.graph.nodes[node]["constant"] = not depends
        if depends:
            self.resolutions.add(node, operator, facts)

    def _add_single(self, operator: Operator, facts: Facts, operands: list[tuple[int, str]]) -> str:
        kind = _kind(facts, operands)
        node = self.naming.operator_name(operator, facts.name or operator.name, kind)
        self._add_node(
            node,
            facts.name or operator.name,
            kind,
            operator.outputs[0],
            self.naming.call_name(operator.call),
            operator.call,
            (operator.index,),
        )
        self._add_edges(node, operands)
        return node

    def _add_pieces(self, operator: Operator, facts: Facts, operands: list[tuple[int, str]], depends: bool) -> None:
        """One node a piece for splits, chunks and unbinds: each is a slice of its own."""
        for place, value in enumerate(operator.outputs):
            node = self._add_single(operator, facts, operands)
            attributes = self.graph.nodes[node]
            attributes["shape"] = tuple(value.shape)
            attributes["constant"] = not depends
            if place:
                attributes["operators"] = ()
            self._adopt([value], node, depends=depends)
            if depends:
                self.resolutions.add(node, replace(operator, outputs=[value]), facts)

    def _add_expanded(self, operator: Operator, facts: Facts, operands: list[tuple[int, str]]) -> str:
        """The steps of a fused operator, as nodes of their own."""
        by_place = dict(operands)
        steps: list[str | None] = []
        node = ""
        for name, places in facts.expands:
            step_operands = [
                (position, producer)
                for position, place in enumerate(places)
                if (producer := by_place.get(place) if place >= 0 else steps[place]) is not None
            ]
            if not step_operands:
                steps.append(None)
                continue
            step_facts = facts_of(name)
            kind = _kind(step_facts, step_operands)
            node = self.naming.operator_name(operator, name, kind)
            self._add_node(
                node,
                name,
                kind,
                operator.outputs[0],
                self.naming.call_name(operator.call),
                operator.call,
                (operator.index,) if not any(steps) else (),
            )
            self._add_edges(node, step_operands)
            self.resolutions.add_alike(node, operator.outputs[0])
            steps.append(node)
        return node

    def _add_composite(self, composite: Composite, operators: list[Operator]) -> None:
        facts = facts_of(composite.name)
        depends = any(value.index in self.depends for value in composite.inputs)
        value = composite.outputs[0]
        node = self.naming.composite_name(composite, facts.name)
        self._add_node(
            node,
            facts.name,
            facts.kind,
            value,
            self.naming.call_name(composite.call),
            composite.call,
            tuple([operator.index for operator in operators]),
        )
        self.graph.nodes[node]["constant"] = not depends
        self._add_edges(node, self._data(composite.inputs))
        for operator in operators:
            self._adopt(operator.outputs, node, depends=depends)
        self._adopt(composite.outputs, node, depends=depends)
        if depends:
            whole = Operator(
                operators[-1].index,
                composite.name,
                None,
                tuple(composite.inputs),
                {},
                composite.inputs,
                composite.outputs,
                composite.call,
            )
            self.resolutions.add(node, whole, facts)

    # -- whole graph -------------------------------------------------------------------------------------------------

    def _mark_outputs(self) -> None:
        """Mark the outputs, and as live what reaches one along data edges."""
        nodes, pred = self.graph._node, self.graph._pred
        open_nodes = []
        for value in self.program.outputs:
            node = self.node_of.get(value.index)
            if node is not None and value.index in self.depends:
                nodes[node]["output"] = True
                open_nodes.append(node)
        while open_nodes:
            node = open_nodes.pop()
            if not nodes[node]["live"]:
                nodes[node]["live"] = True
                open_nodes.extend(pred[node])


def _kind(facts: Facts, operands: Sequence[tuple[int, str]]) -> Kind:
    """What an operator does to these operands."""
    if len(operands) > 1:
        return facts.kind
    if facts.kind is Kind.QUOTIENT:
        return Kind.LINEAR_MAP if operands and operands[0][0] == 0 else Kind.ELEMENTWISE
    return _ALONE.get(facts.kind, facts.kind)


def _units(operators: Sequence[Operator]) -> Iterator[Operator | tuple[Composite, list[Operator]]]:
    """Operators one by one, composite stretches as a whole."""
    stretch: list[Operator] = []
    for operator in operators:
        if stretch and operator.composite is not stretch[-1].composite:
            assert stretch[-1].composite is not None
            yield stretch[-1].composite, stretch
            stretch = []
        if operator.composite is None:
            yield operator
        else:
            stretch.append(operator)
    if stretch:
        assert stretch[-1].composite is not None
        yield stretch[-1].composite, stretch
