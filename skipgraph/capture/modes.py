"""One graph for training and evaluation, where they differ in nothing but the values of arguments."""

from __future__ import annotations

import operator
from typing import Any

from torch import fx

from skipgraph.capture.calls import ScopedGraph


def joined(evaluation: ScopedGraph, training: ScopedGraph) -> ScopedGraph | None:
    """``evaluation`` with every argument that differs in ``training`` chosen by ``self.training``.

    It is changed in place. None if the two are not the same calls.
    """
    nodes, others = list(evaluation.nodes), list(training.nodes)
    if len(nodes) != len(others):
        return None
    twin = dict(zip(others, nodes, strict=True))
    for node, other in zip(nodes, others, strict=True):
        if (node.op, node.target) != (other.op, other.target):
            return None
        if not _alike((node.args, node.kwargs), (other.args, other.kwargs), twin):
            return None
    chosen: dict[tuple[Any, Any], fx.Node] = {}
    flag: list[fx.Node] = []

    def choose(mine: Any, theirs: Any, before: fx.Node) -> Any:
        if isinstance(mine, (list, tuple)):
            return type(mine)([choose(a, b, before) for a, b in zip(mine, theirs, strict=True)])
        if isinstance(mine, dict):
            return {key: choose(mine[key], theirs[key], before) for key in mine}
        if isinstance(mine, (fx.Node, slice)) or (type(mine) is type(theirs) and mine == theirs):
            return mine
        if not flag:
            with evaluation.inserting_before(first):
                flag.append(evaluation.get_attr("training"))
        if (mine, theirs) not in chosen:
            with evaluation.inserting_after(flag[0]):
                if (mine, theirs) == (False, True):
                    chosen[mine, theirs] = flag[0]
                elif (mine, theirs) == (True, False):
                    chosen[mine, theirs] = evaluation.call_function(operator.not_, (flag[0],))
                else:
                    chosen[mine, theirs] = evaluation.call_function(operator.getitem, ((mine, theirs), flag[0]))
        return chosen[mine, theirs]

    first = next(node for node in nodes if node.op != "placeholder")
    for node, other in zip(nodes, others, strict=True):
        node.args = choose(tuple(node.args), tuple(other.args), node)
        node.kwargs = choose(dict(node.kwargs), dict(other.kwargs), node)
    return evaluation


def _alike(mine: Any, theirs: Any, twin: dict[fx.Node, fx.Node]) -> bool:
    """Whether two arguments have the same nodes in the same places, and otherwise plain values."""
    if isinstance(mine, fx.Node) or isinstance(theirs, fx.Node):
        return isinstance(theirs, fx.Node) and twin.get(theirs) is mine
    if isinstance(mine, (list, tuple)):
        return (
            isinstance(theirs, (list, tuple))
            and len(mine) == len(theirs)
            and all(_alike(a, b, twin) for a, b in zip(mine, theirs, strict=True))
        )
    if isinstance(mine, dict):
        return (
            isinstance(theirs, dict)
            and mine.keys() == theirs.keys()
            and all(_alike(mine[key], theirs[key], twin) for key in mine)
        )
    if isinstance(mine, slice):
        ends = [(getattr(mine, end), getattr(theirs, end, None)) for end in ("start", "stop", "step")]
        return isinstance(theirs, slice) and all(
            _alike(a, b, twin) and (isinstance(a, fx.Node) or (type(a) is type(b) and a == b)) for a, b in ends
        )
    return True
