"""Run the forward where it costs nothing, and say so where that takes more than one attempt."""

from __future__ import annotations

import inspect
import io
from contextlib import ExitStack, redirect_stderr
from functools import partial
from typing import Any

import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

from skipgraph.capture.caches import nothing_left
from skipgraph.capture.conditions import undisturbed
from skipgraph.capture.fakes import MOST_KNOWN, KnowingFakes
from skipgraph.capture.opaque import evaluate
from skipgraph.capture.program import Program
from skipgraph.capture.recorder import Recorder
from skipgraph.capture.substitution import borrowed, fake_substitute, to_meta
from skipgraph.capture.trees import map_tensors, named_tensors, tensors
from skipgraph.capture.unfinished import most_layers_ran, part_that_failed
from skipgraph.collection import no_collection
from skipgraph.errors import CaptureError, first_line

_MOST_OPAQUE = 8

Inputs = tuple[tuple[Any, ...], dict[str, Any]]


def capture(
    model: torch.nn.Module,
    args: tuple[Any, ...] = (),
    kwargs: dict[str, Any] | None = None,
    *,
    train: bool = False,
) -> Program:
    """Run one forward of ``model`` without data and record it.

    Parameters
    ----------
    model : torch.nn.Module
        On any device; it is the same afterwards, and none of its data is read.
    args, kwargs : tuple, dict
        Example inputs: tensors on any device, in lists, tuples and dicts to any depth. Only their shapes, strides and
        dtypes count, and the values of masks, lengths and ids where the forward itself reads them.
    train : bool
        Record the forward of training: training mode, gradients on, with what autograd saves.

    Returns
    -------
    Program
        ``method`` says what the forward ran on. Meta tensors come first; a model that reads values in its forward is
        run on fake CPU tensors, which know constants; a module that cannot be run on those either becomes an opaque
        leaf; a forward that itself reads values is run once more with those of its masks, lengths and ids. Each step
        down stands in ``warnings``.

    Raises
    ------
    CaptureError
        If the forward raises in every way of running it. The message quotes the model's own words.
    """
    inputs = (tuple(args), dict(kwargs or {}))
    with no_collection():
        try:
            program = _on_meta(model, inputs, train)
        except Exception as error:
            reason = _words(error)
        else:
            if not program.autocast:
                return program
            reason = "autocast chooses its dtypes by device"
        return _on_fake(model, inputs, train, reason)


def _on_meta(model: torch.nn.Module, inputs: Inputs, train: bool) -> Program:
    program = Program(model, method="meta", training=train)
    with nothing_left(), borrowed(model, to_meta, training=train):
        _forward(Recorder(program), map_tensors(to_meta, inputs), train)
    return program


def _on_fake(model: torch.nn.Module, inputs: Inputs, train: bool, reason: str) -> Program:
    opaque: dict[str, str] = {}
    first: tuple[Exception, str] | None = None  # what the user is told if there is no way
    reads = ""  # why the values of inputs are given to the forward
    while True:
        program = Program(model, method="fake", training=train, opaque=list(opaque.items()))
        program.warnings.append(f"meta tensors did not do ({reason}): traced on fake CPU tensors, which takes longer")
        program.warnings += [
            f"{path} is an opaque leaf: it cannot run without data ({why})" for path, why in opaque.items()
        ]
        if reads:
            program.warnings.append(
                f"the forward reads its masks, lengths or ids ({reads}): the graph is that of those given"
            )
        recorder = Recorder(program)
        try:
            _fake_forward(recorder, inputs, train, opaque, bool(reads))
        except Exception as error:
            failed = recorder.failed.path if recorder.failed else ""
            first = first or (error, failed)
            if not failed and _is_data_dependent(error) and _finished(recorder, error):
                return program
            if not failed and not reads and _is_data_dependent(error):
                reads = _words(error)
                continue
            if not failed or failed in opaque or len(opaque) >= _MOST_OPAQUE:
                return _exported(model, inputs, train, *(first if failed in opaque else (error, failed)))
            opaque[failed] = _words(error)
            continue
        return program


def _finished(recorder: Recorder, error: Exception) -> bool:
    """End a program at the part of the model's own forward that reads values, if most of its layers have run."""
    program = recorder.program
    called = {call.module_call.module for call in program.calls}
    part = part_that_failed(program.model, error) if most_layers_ran(program.model, called) else None
    if part is None:
        return False
    name, given = part
    program.outputs = recorder.opaque_rest(given)
    program.opaque.append((name, _words(error)))
    program.warnings.append(f"{name}() is an opaque leaf, and the last: it depends on data ({_words(error)})")
    return True


def _fake_forward(recorder: Recorder, inputs: Inputs, train: bool, opaque: dict[str, str], knows_inputs: bool) -> None:
    fake = KnowingFakes()
    to_fake = fake_substitute(fake, constants=True)
    recorder.opaque = {path: partial(evaluate, fake=fake) for path in opaque}
    with nothing_left(), borrowed(recorder.program.model, to_fake, training=train):
        unknown = fake_substitute(fake, constants=False)

        def input_to_fake(tensor: torch.Tensor) -> torch.Tensor:
            return to_fake(tensor) if knows_inputs and _is_structure(tensor) else unknown(tensor)

        fake_inputs = map_tensors(input_to_fake, inputs)
        with fake:
            _forward(recorder, fake_inputs, train)


def _is_structure(tensor: torch.Tensor) -> bool:
    """Whether an input says how another one is built: masks of any dtype, lengths, ids; fractions are data."""
    if not tensor.is_floating_point() or tensor.device.type == "meta":
        return True
    return tensor.numel() <= MOST_KNOWN and bool(((tensor == 0) | (tensor == 1)).all())


def _exported(model: torch.nn.Module, inputs: Inputs, train: bool, error: Exception, failed: str) -> Program:
    """The last resort, for analysis alone: let torch.export find a graph, and watch that run."""
    try:
        if train or not _is_data_dependent(error):
            raise error
        with borrowed(model, to_meta, training=False), undisturbed(), redirect_stderr(io.StringIO()):
            exported = torch.export.export(model, *map_tensors(to_meta, inputs), strict=False).module()
        program = Program(exported, method="export")
        with borrowed(exported, to_meta, training=exported.training):
            _forward(Recorder(program), map_tensors(to_meta, inputs), train)
    except Exception:
        raise capture_error(model, inputs, error, failed) from error
    program.warnings.append(
        f"the forward depends on data ({_words(error)}): the graph is torch.export's, good for analysis alone"
    )
    return program


def _forward(recorder: Recorder, inputs: Inputs, train: bool) -> None:
    program = recorder.program
    args, kwargs = inputs
    recorder.learn_names()
    for name, tensor in named_tensors(by_name(program.model, args, kwargs)):
        program.inputs.append(recorder.ledger.value_of(tensor, "input", name))
    with ExitStack() as stack:
        stack.enter_context(undisturbed())
        stack.enter_context(torch.set_grad_enabled(train))
        if train:
            program.saved = []
            stack.enter_context(torch.autograd.graph.saved_tensors_hooks(recorder.save, lambda tensor: tensor))
        with recorder.watch():
            result = _run(recorder, args, kwargs)
        program.outputs = [recorder.ledger.value_of(tensor) for tensor in tensors(result)]


def _run(recorder: Recorder, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call the model; one that was captured node by node, so that its operators know their nodes."""
    model = recorder.program.model
    stepwise = getattr(model, "stepwise", None)
    if stepwise is None:
        return model(*args, **kwargs)
    return stepwise(lambda node: recorder.step(node.name, node.meta.get("scope", ())), *args, **kwargs)


def by_name(model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The inputs by the names of the forward's parameters."""
    try:
        bound = inspect.signature(model.forward).bind(*args, **kwargs).arguments
    except (TypeError, ValueError):
        return {**{f"input{place}": value for place, value in enumerate(args)}, **kwargs}
    named: dict[str, Any] = {}
    for name, value in bound.items():
        if name in ("args", "kwargs", "inputs") and isinstance(value, (tuple, dict)):
            pairs = value.items() if isinstance(value, dict) else ((f"{name}.{n}", v) for n, v in enumerate(value))
            named.update(pairs)
        else:
            named[name] = value
    return named


_DATA_DEPENDENT = (
    "cannot be called on meta tensors", "Cannot copy out of meta", "data-dependent", "data dependent",
    ".numpy() is not supported", ".tolist() is not supported",
)  # fmt: skip


def _is_data_dependent(error: BaseException) -> bool:
    return isinstance(error, (DataDependentOutputException, DynamicOutputShapeException)) or any(
        words in str(error) for words in _DATA_DEPENDENT
    )


def _words(error: BaseException) -> str:
    """The kind of an error, and the first line of what it says."""
    kind, line = type(error).__name__, first_line(error)
    return kind if line == kind else f"{kind}: {line}"


def capture_error(model: torch.nn.Module, inputs: Inputs, error: Exception, failed: str) -> CaptureError:
    """What to tell the user of a forward that raised ``error`` in the module ``failed``."""
    shapes = ", ".join(
        f"{name} {'x'.join(map(str, tensor.shape)) or 'scalar'} {str(tensor.dtype)[6:]}"
        for name, tensor in named_tensors(by_name(model, *inputs))
    )
    name = type(model).__name__
    where = f" in {failed}" if failed else ""
    if _is_data_dependent(error):
        failure = CaptureError(
            f"{name}'s forward depends on the data{where}: {_words(error)} (inputs: {shapes or 'none'})",
            "Move the branch on tensor values into a submodule of its own: it then becomes an opaque leaf.",
        )
        failure.reads_values = True
        return failure
    return CaptureError(
        f"{name}'s forward raised{where}: {_words(error)} (inputs: {shapes or 'none'})",
        "Check the inputs: give each one's shape (and dtype) as the forward expects it.",
    )
