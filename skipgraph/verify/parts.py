"""The checks of models that are too large for float64 as a whole: part by part."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from skipgraph.capture.runnable import Captured
from skipgraph.capture.trees import doubled, map_tensors
from skipgraph.errors import VerificationError
from skipgraph.passes.state_map import StateMap
from skipgraph.verify.inputs import Inputs, Sizes, draw
from skipgraph.verify.pair import Pair, RefusedError
from skipgraph.verify.precision import Exactly, double, exactly, make_double, without_dropout
from skipgraph.verify.running import arguments, device_of, kept_buffers
from skipgraph.verify.sites import Site, find_sites, part_module
from skipgraph.verify.weights import parameters, redraw
from skipgraph.verify.whole import MODES


class Parts:
    """The original runs once in each mode, in its own dtype; what the rewritten parts read of it is kept for them.

    Each part then runs in float64 beside what it replaced, forward and backward: on what it read, with the given
    weights, and on random tensors of the same shapes, with redrawn ones. Outside the parts the two graphs are the same
    calls of the same modules with the same weights, which is asserted.
    """

    def __init__(
        self,
        models: tuple[Captured, Captured],
        inputs: Inputs,
        state_map: StateMap,
        *,
        seed: int,
        modes: Sequence[bool],
        tolerance: float,
        progress: Callable[[str], None],
    ) -> None:
        self._before, self._after = models
        self._inputs = draw(inputs, Sizes(), seed, device_of(models[0]))
        self._map = state_map
        self._seed = seed
        self._modes = modes
        self._tolerance = tolerance
        self._progress = progress
        self.pair = Pair(self._before, self._after, self._graphs, state_map, tolerance)

    def _graphs(self) -> tuple[fx.Graph, fx.Graph]:
        return self._before.graphs[self._before.training], self._after.graphs[self._after.training]

    def check(self) -> None:
        """Make all checks; the models are the same afterwards.

        Raises
        ------
        VerificationError
        """
        self._check_weights()
        flags = [(module, module.training) for model in (self._before, self._after) for module in model.modules()]
        try:
            for mode in self._modes:
                self._before.train(mode)
                self._after.train(mode)
                with without_dropout(self._before, self._after), kept_buffers(self._before):
                    self._check_mode()
        finally:
            for module, training in flags:
                module.training = training
        if not self.pair.checks:
            reasons = "; ".join(dict.fromkeys(self.pair.skipped)) or "both graphs are the same calls"
            raise VerificationError(f"nothing could be compared: {reasons}")

    def _check_weights(self) -> None:
        """All weights follow from the original's, and layers of one name are alike."""
        wanted, found = self._map.forward(self._before.state_dict()), self._after.state_dict()
        names = wanted.keys() | found.keys()
        for name in sorted(names):
            both = name in wanted and name in found
            if not both or not torch.equal(wanted[name].nan_to_num(), found[name].nan_to_num()):
                raise VerificationError(f"{name} of the rewritten model does not follow from the original's weights")
        theirs = dict(self._before.named_modules())
        for path, module in self._after.named_modules():
            leaf = not list(module.children()) and path in theirs
            if leaf and repr(module) != repr(theirs[path]) and self._is_called(path):
                raise VerificationError(
                    f"{path} is {module} in the rewritten model, and {theirs[path]} in the original"
                )

    def _is_called(self, path: str) -> bool:
        return any(graph.find_nodes(op="call_module", target=path) for graph in self._after.graphs.values())

    def _check_mode(self) -> None:
        two = doubled(self._inputs) if self._before.training else None
        try:
            self._stream(self._inputs)
        except ValueError:  # a norm that cannot train on one sample
            if two is None:
                raise
            self._stream(two)

    def _stream(self, inputs: Inputs) -> None:
        graph, other = self._graphs()
        sites = find_sites(graph, other)
        streaming = _Streaming(self._before, graph, sites, self._check_site)
        with Exactly(double=False), torch.no_grad():
            torch.manual_seed(self._seed)
            streaming.run(*arguments(graph, map_tensors(torch.Tensor.clone, inputs)))

    def _check_site(self, site: Site, values: list[Any]) -> None:
        mode = MODES[self._before.training]
        where = ", ".join(site.outputs)
        if not site.outputs:
            return
        self._progress(f"float64, {mode}, the part that ends in {where}")
        before, after = (
            _own(part_module(root, site, nodes))
            for root, nodes in ((self._before, site.before), (self._after, site.after))
        )
        pair = Pair(before, after, lambda: (before.graph, after.graph), self._map, self._tolerance, where)
        given: Inputs = map_tensors(double, (tuple(values), {}))
        seed = self._seed + len(self.pair.checks)
        for weights in ("given", "redrawn"):
            if weights == "redrawn":
                redraw(before, self._seed)
            # With the given ones, too: the original has run on, and a norm of its may have counted a forward.
            _carry(before, after, self._map)
            if weights == "redrawn":
                given = draw(given, Sizes(), seed, device_of(self._before))
            try:
                with exactly(double=True):
                    pair.check(given, seed, mode, weights)
            except RefusedError as refused:
                pair.skipped.append(f"part that ends in {where}: {refused}")
        self.pair.checks += pair.checks
        self.pair.skipped += pair.skipped
        self.pair.noise_floor = max(self.pair.noise_floor, pair.noise_floor)


class _Streaming(fx.Interpreter):
    """Runs a graph, and hands each site what it reads as soon as all of it is there."""

    def __init__(
        self, module: torch.nn.Module, graph: fx.Graph, sites: list[Site], ready: Callable[[Site, list[Any]], None]
    ) -> None:
        super().__init__(module, graph=graph)
        self._ready = ready
        self._kept: dict[str, Any] = {}
        order = {node.name: place for place, node in enumerate(graph.nodes)}
        self._due: dict[str, list[Site]] = defaultdict(list)
        self._forgotten: dict[str, list[str]] = defaultdict(list)
        needed_until: dict[str, str] = {}
        for site in sorted(sites, key=lambda site: max((order[name] for name in site.inputs), default=0)):
            last = max(site.inputs, key=order.__getitem__, default=next(iter(order)))
            self._due[last].append(site)
            needed_until |= dict.fromkeys(site.inputs, last)
        for name, last in needed_until.items():
            self._forgotten[last].append(name)
        self._wanted = needed_until.keys()

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.name in self._wanted:
            self._kept[n.name] = value
        for site in self._due.get(n.name, []):
            self._ready(site, [self._kept[name] for name in site.inputs])
        for name in self._forgotten.get(n.name, []):
            del self._kept[name]
        return value


def _own(part: fx.GraphModule) -> fx.GraphModule:
    new = copy.deepcopy(part)
    make_double(new)
    for parameter in new.parameters():
        parameter.grad = None
        parameter.requires_grad_(parameter.is_floating_point() or parameter.is_complex())
    return new


def _carry(before: torch.nn.Module, after: torch.nn.Module, state_map: StateMap) -> None:
    """What the rewritten part holds of the original part's tensors."""
    theirs = {**parameters(before), **dict(before.named_buffers(remove_duplicate=False))}
    ours = {**parameters(after), **dict(after.named_buffers(remove_duplicate=False))}
    with torch.no_grad():
        for name, tensor in state_map.forward(theirs).items():
            if name in ours:
                ours[name].copy_(tensor)
