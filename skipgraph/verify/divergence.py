"""Where two graphs part: run node by node, side by side."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import fx

from skipgraph.capture.trees import map_tensors, named_tensors, tensors
from skipgraph.verify.compare import distance, size
from skipgraph.verify.inputs import Inputs
from skipgraph.verify.running import arguments, kept_buffers, loss


class _Watched(fx.Interpreter):
    """Runs a graph and tells of each node and its value."""

    def __init__(self, module: torch.nn.Module, graph: fx.Graph, tell: Callable[[fx.Node, Any], None]) -> None:
        super().__init__(module, graph=graph)
        self._tell = tell
        self.extra_traceback = False

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        self._tell(n, value)
        return value


class _Parted(Exception):  # noqa: N818 - it is an answer
    """Here they part."""


def _interpret(
    module: torch.nn.Module,
    graph: fx.Graph,
    inputs: Inputs,
    seed: int,
    tell: Callable[[fx.Node, Any], None],
    *,
    keep: bool = True,
) -> Any:
    torch.manual_seed(seed)
    copies: Inputs = map_tensors(
        lambda x: x.detach().clone().requires_grad_(x.is_floating_point() or x.is_complex()).clone(), inputs
    )
    with kept_buffers(module) if keep else nullcontext():
        return _Watched(module, graph, tell).run(*arguments(graph, copies))


def location(node: fx.Node) -> str:
    """A node and the module that it belongs to."""
    scope = node.meta.get("scope") or ()
    path = str(node.target) if node.op == "call_module" else scope[-1][0] if scope else ""
    return f"{node.name} (in {path})" if path else node.name


def first_difference(
    before: tuple[torch.nn.Module, fx.Graph],
    after: tuple[torch.nn.Module, fx.Graph],
    inputs: Inputs,
    seed: int,
    tolerance: float,
) -> str:
    """The first node, in the order of the rewritten graph, whose value is not that of its namesake.

    Returns
    -------
    str
        A sentence that names it. Where no value differs, the node at which the gradients part.
    """
    values: dict[str, list[torch.Tensor]] = {}
    last: list[fx.Node] = []
    _interpret(*before, inputs, seed, lambda node, value: values.update({node.name: _copies(value)}))

    def compare(node: fx.Node, value: Any) -> None:
        last.append(node)
        theirs = None if _is_uninitialised(node) else values.get(node.name)
        if theirs is not None and _differ(_copies(value), theirs, tolerance):
            raise _Parted

    try:
        _interpret(*after, inputs, seed, compare)
    except _Parted:
        return f"The first node that differs is {location(last[-1])}."
    except Exception:
        nodes = list(after[1].nodes)
        raising = nodes[nodes.index(last[-1]) + 1] if last else nodes[0]
        return f"The node that raises is {location(raising)}."
    return _first_gradient(before, after, inputs, seed, tolerance)


def _first_gradient(
    before: tuple[torch.nn.Module, fx.Graph],
    after: tuple[torch.nn.Module, fx.Graph],
    inputs: Inputs,
    seed: int,
    tolerance: float,
) -> str:
    theirs, ours = _gradients(*before, inputs, seed), _gradients(*after, inputs, seed)
    for node in reversed(after[1].nodes):
        if node.name in ours.keys() | theirs.keys() and _is_shared(node, before[1]):
            a, b = ours.get(node.name, []), theirs.get(node.name, [])
            if _differ(a, b, tolerance):
                return (
                    f"All values agree; on the way back, the first gradient that differs is that of {location(node)}."
                )
    return "No node of the same name differs in value or gradient."


def _is_shared(node: fx.Node, graph: fx.Graph) -> bool:
    return any(other.name == node.name for other in graph.nodes)


def _gradients(module: torch.nn.Module, graph: fx.Graph, inputs: Inputs, seed: int) -> dict[str, list[torch.Tensor]]:
    held: dict[str, list[torch.Tensor]] = {}

    def hold(node: fx.Node, value: Any) -> None:
        held[node.name] = [tensor for tensor in tensors(value) if tensor.requires_grad and not tensor.is_leaf]
        for tensor in held[node.name]:
            tensor.retain_grad()

    with kept_buffers(module):  # the way back reads them
        outputs = dict(named_tensors(_interpret(module, graph, inputs, seed, hold, keep=False)))
        if (total := loss(outputs)) is not None:
            total.backward()
    for parameter in module.parameters():
        parameter.grad = None
    return {
        name: [torch.zeros_like(tensor) if tensor.grad is None else tensor.grad for tensor in group]
        for name, group in held.items()
        if group
    }


def first_random(module: torch.nn.Module, graph: fx.Graph, inputs: Inputs, seeds: tuple[int, int]) -> str:
    """The first node whose value is another from another seed; empty if none does."""
    values: dict[str, list[torch.Tensor]] = {}
    found: list[fx.Node] = []
    _interpret(module, graph, inputs, seeds[0], lambda node, value: values.update({node.name: _copies(value)}))

    def compare(node: fx.Node, value: Any) -> None:
        if not found and not _is_uninitialised(node) and _differ(_copies(value), values[node.name], 0.0):
            found.append(node)

    _interpret(module, graph, inputs, seeds[1], compare)
    return location(found[0]) if found else ""


def _is_uninitialised(node: fx.Node) -> bool:
    """Whether the values are whatever the memory holds."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return "empty" in name


def _copies(value: Any) -> list[torch.Tensor]:
    return [tensor.detach().clone() for tensor in tensors(value)]


def _differ(a: list[torch.Tensor], b: list[torch.Tensor], tolerance: float) -> bool:
    if len(a) != len(b):
        return True
    return any(distance(x, y) > tolerance * size(y) for x, y in zip(a, b, strict=True))
