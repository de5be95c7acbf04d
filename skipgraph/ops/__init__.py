"""What is known of each operator.

One file a family, and in it all of that family's facts. The files find themselves: every module of this package is
imported, and so is every entry point of the group ``skipgraph.ops``; each calls `register` for its operators. An
operator that nobody registered gets `UNKNOWN` facts and is listed in the report.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skipgraph.capture.program import Composite, Operator
    from skipgraph.ops.axes import Axes, AxisRoles


class Kind(StrEnum):
    """What an operator does to a signal, as far as section 2 of the design asks."""

    __hash__ = str.__hash__  # Enum's own is Python, and kinds are looked up for every node

    INPUT = "input"
    LAYER = "layer"  # convolution, linear, product with a parameter matrix, FFT, token-mixing average pooling
    RECURRENT = "recurrent"  # a layer that is a non-linearity too
    ATTENTION = "attention"  # softmax(q kᵀ) v as one node
    ATTENTION_LAYER = "attention_layer"  # the same with its projections: a layer that is a non-linearity too
    ACTIVATION = "activation"  # element-wise non-linearity
    GATE = "gate"  # sigmoid, hard sigmoid, softmax: a non-linearity whose result may gate a product
    NORM = "norm"
    POOL = "pool"
    RESAMPLE = "resample"  # interpolation, pixel shuffle
    SAMPLE = "sample"  # reads a tensor at computed positions
    SUM = "sum"
    DIFFERENCE = "difference"
    CONCAT = "concat"
    STACK = "stack"
    PRODUCT = "product"  # element-wise product of two activations
    QUOTIENT = "quotient"
    MATMUL = "matmul"  # matrix product of two activations
    LINEAR_MAP = "linear_map"  # scaling, shifting by a constant, dropout, casts, clones: changes no position
    ELEMENTWISE = "elementwise"  # any other element-wise function (exp, pow, where)
    REDUCE = "reduce"  # sum, mean, maximum over axes
    VIEW = "view"  # reshape, permute, unsqueeze
    SLICE = "slice"
    SCATTER = "scatter"  # a slice written over in a larger tensor
    PAD = "pad"
    EXPAND = "expand"
    INDEX = "index"  # gather, roll, flip, sort
    EMBEDDING = "embedding"
    CREATE = "create"  # makes a tensor of sizes alone
    UNKNOWN = "unknown"


AxisRule = Callable[["AxisRoles", "Operator", "list[Axes]"], "Axes"]
FlopRule = Callable[["Operator | Composite"], int | None]
WorkspaceRule = Callable[["Operator | Composite"], int | None]


@dataclass(frozen=True, slots=True)
class Facts:
    """All that is known of one operator.

    Attributes
    ----------
    name : str
        Canonical name, shown to users.
    kind : Kind
        What it does to a signal.
    axes : AxisRule or None
        How the axes of the result follow from those of the operands (None: same place, same size, same axis).
    flops : FlopRule or None
        Multiply-adds of one call. None: no rule, and the operator is listed as unpriced unless it is ``free``.
        A rule that answers None does not know this call.
    fvcore : bool
        The FLOP rule is fvcore's own handle (otherwise ours, listed apart).
    free : bool
        Does no arithmetic at all: views, copies, creation.
    workspace : WorkspaceRule or None
        Bytes that the CPU kernel allocates besides its results. For a composite: what its kernel allocates instead of
        the intermediate results that capture saw, or None where those are real.
    saves : WorkspaceRule or None
        Of a composite whose kernel keeps its operands, its results and this many bytes for the backward pass, instead
        of what capture saw saved.
    distributes : bool
        Channel-wise: f(cat(a, b)) = cat(f(a), f(b)) along the feature axis.
    apart : int
        How many of the first axes are a batch: f(cat(a, b), cat(c, d)) = cat(f(a, c), f(b, d)) along each of them.
    onnx : tuple of str
        Names of the same operator in ONNX.
    expands : tuple
        What a fused operator computes, as steps of ``(canonical name, operand places)``; a negative place is an
        earlier step, counted from the end.
    """

    name: str
    kind: Kind
    axes: AxisRule | None = None
    flops: FlopRule | None = None
    fvcore: bool = False
    free: bool = False
    workspace: WorkspaceRule | None = None
    saves: WorkspaceRule | None = None
    distributes: bool = False
    apart: int = 0
    onnx: tuple[str, ...] = ()
    expands: tuple[tuple[str, tuple[int, ...]], ...] = ()


UNKNOWN = Facts("", Kind.UNKNOWN)
_FACTS: dict[str, Facts] = {}


def register(*names: str, kind: Kind, as_name: str | None = None, **facts: Any) -> None:
    """Register the facts of the ATen operators ``names`` (canonical: no namespace, overload or in-place underscore).

    Each is shown to users under its own name, or under ``as_name``.

    Raises
    ------
    ValueError
        If one of the names is registered already.
    """
    for name in names:
        if name in _FACTS:
            raise ValueError(f"facts of operator {name!r} are registered twice")
        _FACTS[name] = Facts(name=as_name or name, kind=kind, **facts)


def facts_of(name: str) -> Facts:
    """The facts registered for the canonical operator ``name``, or `UNKNOWN`."""
    return _FACTS.get(name, UNKNOWN)


def registered() -> dict[str, Facts]:
    """All registered facts by canonical ATen name (a copy)."""
    return dict(_FACTS)


def _load_families() -> None:
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    for entry_point in entry_points(group="skipgraph.ops"):
        entry_point.load()


_load_families()
