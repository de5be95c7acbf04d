"""What one watched forward leaves behind: calls, operators, values and storages."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch

Origin = Literal["operator", "input", "parameter", "buffer", "constant"]


@dataclass(slots=True, eq=False)
class Storage:
    """A block of memory, shared by all views of it.

    ``born`` is the index of the operator that allocated it (-1: it was there before the forward), ``died`` the number
    of operators that had run when the interpreter let go of its last tensor (None: it outlived the forward). Both are
    observed, not predicted: the forward really runs, on tensors without data, in the user's own frames.
    """

    index: int
    nbytes: int
    born: int
    origin: Origin
    died: int | None = None


@dataclass(slots=True, eq=False)
class Value:
    """One version of one tensor: a write in place makes a new version of every alias that it overlaps."""

    index: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    dtype: torch.dtype
    storage: Storage
    producer: Operator | None = None
    origin: Origin = "operator"
    name: str = ""

    @property
    def nbytes(self) -> int:
        """Bytes of the elements that this tensor shows (not of the storage behind it)."""
        count = self.dtype.itemsize
        for size in self.shape:
            count *= size
        return count


@dataclass(slots=True, eq=False)
class ModuleCall:
    """One call of one module: ``path`` is its qualified name, ``parent`` the call that it was made in."""

    path: str
    module: torch.nn.Module
    parent: ModuleCall | None


@dataclass(slots=True, eq=False)
class Call:
    """One call at the level of the user's code: a torch function or a tensor method, with its arguments.

    In ``args`` and ``kwargs`` every tensor is replaced by its `Value`; they are kept for functions that are priced or
    shown as a whole (einsum, attention, adaptive pooling), and empty for the others, whose operators say it all.
    ``site`` is the name of the node that it runs, in the graph of a `Captured` model.
    """

    index: int
    function: Any
    module_call: ModuleCall
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    site: str = ""


@dataclass(slots=True, eq=False)
class Composite:
    """A stretch of operators that counts as one node.

    Attention and recurrent modules are such: their kernels differ from device to device. ``name`` is the canonical
    operator name ("multi_head_attention", "lstm", …).
    """

    name: str
    call: Call
    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    module: torch.nn.Module | None = None


@dataclass(slots=True, eq=False)
class Operator:
    """One ATen operator that a call dispatched to.

    ``name`` is its canonical name (no namespace, no overload, no in-place underscore). In ``args`` and ``kwargs``
    every tensor is replaced by its `Value`; ``inputs`` lists those values in operand order.
    ``written`` is the value that an in-place operator wrote over, in its version before the write.
    """

    index: int
    name: str
    overload: torch._ops.OpOverload | None
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: list[Value]
    outputs: list[Value]
    call: Call
    is_view: bool = False
    written: Value | None = None
    composite: Composite | None = None


@dataclass(slots=True)
class Program:
    """A captured forward.

    Attributes
    ----------
    modules : dict
        All modules of ``model`` by path, each once, as they were when the forward began.
    operators, calls, storages : list
        In order of execution.
    inputs : list of Value
        The tensors among the model's inputs, with dotted names.
    outputs : list of Value
        The tensors among the model's outputs.
    method : str
        ``"meta"``, ``"fake"`` or ``"export"``: what the forward ran on.
    training : bool
        Whether the model was in training mode.
    autocast : bool
        Whether some of the forward ran under autocast.
    opaque : list of tuple
        ``(module path, reason)`` of every module that could not be looked into.
    saved : list of Value or None
        What autograd kept for the backward pass, parameters left out (None unless it was asked for).
    warnings : list of str
        Each step down that capture took, in words for the user.
    """

    model: torch.nn.Module
    modules: dict[str, torch.nn.Module] = field(default_factory=dict)
    operators: list[Operator] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    storages: list[Storage] = field(default_factory=list)
    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    method: Literal["meta", "fake", "export"] = "meta"
    training: bool = False
    opaque: list[tuple[str, str]] = field(default_factory=list)
    autocast: bool = False
    saved: list[Value] | None = None
    warnings: list[str] = field(default_factory=list)
