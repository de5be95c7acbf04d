"""The captured forward as a module that runs: same outputs, same gradients, same state dict."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import MethodType
from typing import Any

import torch
from torch import fx
from torch.utils._pytree import tree_map_only

from skipgraph.capture.caches import nothing_left
from skipgraph.capture.calls import CallTracer, ScopedGraph
from skipgraph.capture.conditions import undisturbed
from skipgraph.capture.fakes import KnowingFakes
from skipgraph.capture.modes import joined
from skipgraph.capture.sizes import Trace, Tracing, same_data, study
from skipgraph.capture.substitution import borrowed, fake_substitute, to_meta
from skipgraph.capture.tracer import Inputs, capture_error
from skipgraph.capture.trees import map_tensors
from skipgraph.errors import CaptureError


class Captured(torch.nn.Module):
    """A model whose forward is a graph of its calls.

    It holds the very submodules, parameters and buffers of the model that it was captured from, under the same names
    (deep-copy it for tensors of its own).

    Attributes
    ----------
    graphs : dict
        ``{False: graph of evaluation, True: graph of training}``; one and the same object where they do not differ.
    fixed_sizes : tuple of str
        What had to be asserted: ``"x.size(2) == 224"``, or a comparison that the forward made and that moves with a
        size, ``"x.size(2) % 32 == 0"``. Other sizes raise an `AssertionError` that says so.
    is_source : bool
        Whether the graph is the model itself, and not one that was traced from it.
    modes : tuple of bool
        The modes that were captured: ``(False, True)``, or ``(False,)``; then training runs the graph of evaluation.
    """

    is_source = False
    modes: tuple[bool, ...] = (False, True)
    shared: tuple[str, ...] = ("graphs", "_forwards")  # by copies of the module; `copy` makes graphs of their own

    def __init__(
        self,
        model: torch.nn.Module,
        graphs: dict[bool, ScopedGraph],
        constants: dict[str, torch.Tensor],
        fixed_sizes: tuple[str, ...],
    ) -> None:
        super().__init__()
        for name, value in model.__dict__.items():
            if name not in self.__dict__ and isinstance(value, torch.Tensor):
                self.__dict__[name] = value
        self._parameters.update(model._parameters)
        self._buffers.update(model._buffers)
        self._non_persistent_buffers_set.update(model._non_persistent_buffers_set)
        self._modules.update(model._modules)
        for name, tensor in constants.items():
            self.register_buffer(name, tensor, persistent=False)
        self.training = model.training
        self.graphs = graphs
        self._forwards: dict[bool, Callable[..., Any]] = {}
        self.fixed_sizes = fixed_sizes
        self._exceptions = {mode: _exceptions(model, mode) for mode in (False, True)}
        self.recompile()

    def unlike_graphs(self) -> list[ScopedGraph]:
        """The graphs of evaluation and training; one where they are the same."""
        return list({id(graph): graph for graph in self.graphs.values()}.values())

    def recompile(self) -> None:
        """Make the graphs' code again, after they were edited."""
        compiled = {id(graph): _compiled(graph) for graph in self.graphs.values()}
        self._forwards = {mode: compiled[id(graph)] for mode, graph in self.graphs.items()}

    @property
    def forward(self) -> Callable[..., Any]:  # type: ignore[override]
        """Runs the graph of the present mode; it has the parameters of the original's forward."""
        return MethodType(self._forwards[self.training], self)

    def stepwise(self, before: Callable[[fx.Node], None], *args: Any, **kwargs: Any) -> Any:
        """Run the graph of the present mode node by node, each result freed after its last use.

        ``before`` is told of every node that is about to run.
        """
        graph = self.graphs[self.training]
        names = [node.target for node in graph.find_nodes(op="placeholder")]
        given = [*args, *(kwargs[str(name)] for name in names[len(args) :])]
        return _Steps(self, graph, before).run(*given, enable_io_processing=False)

    @property
    def frozen_modes(self) -> set[str]:
        """Submodules that stay in evaluation when the model trains."""
        return set(self._exceptions[True])

    def train(self, mode: bool = True) -> Captured:
        """Set the mode, with the exceptions that the original makes (norms that it keeps frozen)."""
        super().train(mode)
        modules = dict(self.named_modules(remove_duplicate=False))
        for path in self._exceptions[mode]:
            if path in modules:  # parts are gone when they are one layer again
                modules[path].training = not mode
        return self

    def parted(self, path: str, parts: Sequence[str]) -> None:
        """Note that the layer at ``path`` is in parts now, which stay in its mode where it stays in one."""
        for mode, paths in self._exceptions.items():
            if path in paths:
                self._exceptions[mode] = (*paths, *parts)

    def code(self, *, training: bool = False) -> str:
        """The Python that runs, as text."""
        return self.graphs[training].python_code("self").src

    def copy(self) -> Captured:
        """A model of its own, tensors and graphs: what is done to either leaves the other alone."""
        new = copy.deepcopy(self)
        copies = {id(graph): copied(graph) for graph in self.graphs.values()}
        new.graphs = {mode: copies[id(graph)] for mode, graph in self.graphs.items()}
        new.recompile()
        return new

    def __deepcopy__(self, memo: dict[int, Any]) -> Captured:
        new = type(self).__new__(type(self))
        torch.nn.Module.__init__(new)
        for name, value in self.__dict__.items():
            new.__dict__[name] = value if name in self.shared else copy.deepcopy(value, memo)
        return new


def copied(graph: fx.Graph) -> ScopedGraph:
    """A graph of the same nodes, with the same names, that can be edited on its own."""
    new = ScopedGraph()
    result = new.graph_copy(graph, {})
    new.output(result)
    return new


class _Steps(fx.Interpreter):
    def __init__(self, captured: Captured, graph: fx.Graph, before: Callable[[fx.Node], None]) -> None:
        super().__init__(captured, graph=graph)
        self._before = before

    def run_node(self, n: fx.Node) -> Any:
        self._before(n)
        return super().run_node(n)


def runnable(
    model: torch.nn.Module,
    args: tuple[Any, ...] = (),
    kwargs: dict[str, Any] | None = None,
    *,
    modes: tuple[bool, ...] = (False, True),
) -> Captured:
    """Capture ``model`` so that it can be run again, in both modes, at other sizes.

    Parameters
    ----------
    model : torch.nn.Module
        On any device; it is the same afterwards.
    args, kwargs : tuple, dict
        Example inputs; their shapes are the sizes that are traced first.
    modes : tuple of bool
        ``(False,)`` captures evaluation alone, for models that only infer: the forward of training may then decide by
        what it draws.

    Returns
    -------
    Captured
        A module with the same outputs and gradients, bit for bit, and the same state-dict keys. It runs at every
        batch size, and at other spatial sizes wherever each size that the forward uses as data is an expression in
        the sizes of its inputs, found from traces at other sizes and checked at one more; where it is not, the sizes
        that were traced are asserted.

    Raises
    ------
    CaptureError
        If the forward cannot be run without data, or decides by a number drawn at random.

    Notes
    -----
    A size remembers where it comes from through arithmetic and comparisons, and each comparison that may decide the
    way is asserted. It forgets in ``int()``, ``range()`` and dictionary look-ups; there a way taken only at sizes
    unlike those that were tried is not seen.
    """
    if isinstance(model, Captured) and model.is_source:
        return model
    given = dict(kwargs or {})
    # In the order of the forward's parameters, which is that of the placeholders.
    order = _parameters(model, tuple(args), given)
    given = {name: given[name] for name in sorted(given, key=[*order, *given].index)}
    # One tensor given twice becomes two, and none has values that the forward could go by.
    inputs: Inputs = tree_map_only(torch.Tensor, _without_data, (tuple(args), given))
    evaluation, on_fake = _first_trace(model, inputs, training=False)
    training, training_on_fake = _first_trace(model, inputs, training=True) if True in modes else (evaluation, on_fake)

    def tracing(mode: bool, on_fake: bool) -> Tracing:
        return lambda other: _traced(_trace(model, other, mode, on_fake=on_fake))

    found = study(_traced(evaluation), inputs, tracing(False, on_fake))
    if training is evaluation:
        fixed = found.apply(evaluation.graph)
    elif found.covers(_traced(training)):
        fixed = found.apply(training.graph)
        found.apply(evaluation.graph)
    else:
        other = study(_traced(training), inputs, tracing(True, training_on_fake))
        fixed = (*found.apply(evaluation.graph), *other.apply(training.graph))
    constants = _constants(model, inputs, _shared(evaluation, training))
    graphs: dict[bool, ScopedGraph] = {False: evaluation.graph, True: training.graph}
    if training is not evaluation and (one := joined(evaluation.graph, training.graph)) is not None:
        graphs = {False: one, True: one}
    captured = Captured(model, graphs, constants, tuple(dict.fromkeys(fixed)))
    captured.modes = modes
    return captured


def _without_data(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def _traced(tracer: CallTracer) -> Trace:
    return Trace(tracer.graph, tracer.sizes.comparisons)


def _exceptions(model: torch.nn.Module, mode: bool) -> tuple[str, ...]:
    """The submodules that ``model.train(mode)`` leaves in the other mode."""
    modules = dict(model.named_modules())
    before = {path: module.training for path, module in modules.items()}
    try:
        model.train(mode)
        return tuple(path for path, module in modules.items() if path and module.training != mode)
    finally:
        for path, module in modules.items():
            module.training = before[path]


def _first_trace(model: torch.nn.Module, inputs: Inputs, *, training: bool) -> tuple[CallTracer, bool]:
    """The trace at the given sizes, and whether it took fake tensors."""
    try:
        tracer = _trace(model, inputs, training, on_fake=False)
        if not tracer.autocast:  # which chooses its dtypes by device
            return tracer, False
        return _trace(model, inputs, training, on_fake=True), True
    except CaptureError:
        raise
    except Exception:
        try:
            return _trace(model, inputs, training, on_fake=True), True
        except Exception as error:
            raise capture_error(model, inputs, error, "") from error


def _trace(model: torch.nn.Module, inputs: Inputs, training: bool, *, on_fake: bool) -> CallTracer:
    """The calls of one forward, on meta tensors or on fake CPU tensors."""
    fake = KnowingFakes() if on_fake else None
    substitute = fake_substitute(fake) if fake else to_meta
    with ExitStack() as stack:
        stack.enter_context(nothing_left())
        stack.enter_context(undisturbed())
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(borrowed(model, substitute, training=training))
        args, kwargs = map_tensors(substitute, inputs)
        stack.enter_context(torch.enable_grad())
        tracer = CallTracer(model)
        for name, tree in _parameters(model, args, kwargs).items():
            tracer.add_input(name, tree)
        if fake is not None:
            stack.enter_context(fake)
        tracer.expect_values()
        with tracer.watch():
            result = model(*args, **kwargs)
        tracer.set_output(result)
    return tracer


def _parameters(model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The inputs by names that a captured forward takes them by, positional ones first."""
    try:
        signature = inspect.signature(model.forward)
        bound = signature.bind(*args, **kwargs).arguments
    except (TypeError, ValueError):
        return {**{f"input_{place}": value for place, value in enumerate(args)}, **kwargs}
    named: dict[str, Any] = {}
    for name, value in bound.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            named |= {f"{name}_{place}": one for place, one in enumerate(value)}
        elif kind is inspect.Parameter.VAR_KEYWORD:
            named |= value
        else:
            named[name] = value
    return named


def _shared(evaluation: CallTracer, training: CallTracer) -> dict[str, torch.Tensor]:
    """The constants of both graphs; those of training get names of their own where they are others."""
    constants = dict(evaluation.constants)
    for name, tensor in training.constants.items():
        other = name
        if name in constants and not same_data(constants[name], tensor):
            other = f"_training{name}"
            for node in training.graph.find_nodes(op="get_attr", target=name):
                node.target = other
        constants[other] = tensor
    return constants


def _constants(model: torch.nn.Module, inputs: Inputs, found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors that the forward made out of sight, or found outside the model, with their data."""
    constants = {name: getattr(tensor, "constant", tensor) for name, tensor in found.items()}
    for name, tensor in constants.items():
        if tensor is None or tensor.device.type == "meta":
            shape = "x".join(map(str, found[name].shape)) or "scalar"
            error = RuntimeError(f"a tensor of shape {shape} was kept from an earlier call, or its making not seen")
            raise capture_error(model, inputs, error, "")
    return constants


def _compiled(graph: fx.Graph) -> Callable[..., Any]:
    code = graph.python_code("self")
    names = dict(code.globals)
    exec(compile(code.src, "<skipgraph captured forward>", "exec"), names)
    forward: Callable[..., Any] = names["forward"]
    return forward
