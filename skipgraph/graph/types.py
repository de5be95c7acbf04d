"""The dataflow graph: a networkx multigraph of operators, and the words for what is found in it.

A node is one operator result, an edge one floating-point operand. Everything that later stations need is a plain
attribute (strings, numbers, tuples), so a graph can be saved, compared or built by hand, and any networkx algorithm
takes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypedDict

import networkx as nx


class NodeAttributes(TypedDict, total=False):
    """What a node of a `SkipGraph` carries.

    The first group comes from capture, the second from cost.
    """

    op: str  # canonical ATen name without in-place underscore: "convolution", "add", "cat"; "input" for inputs
    kind: str  # a member of `skipgraph.ops.Kind`, as a string: "layer", "activation", "sum", "concat", …
    call: str  # what the user's code called: "torch.nn.Conv2d", "torch.cat", "Tensor.add_"
    module: str  # qualified path of the innermost module that was running: "layer1.0.conv1"; "" for the model itself
    index: int  # place in the order of execution, which is a topological order of the graph
    shape: tuple[int, ...]
    dtype: str  # "float32"
    layer: bool  # a layer operator (section 2 of the design)
    nonlinear: bool  # a non-linearity
    axis: int | None  # of a concat, a stack, a slice or a sum over one axis: that axis
    axis_role: str | None  # of a concat: "batch", "feature" or "space"
    slice: tuple[int, int, int] | None  # of a slice: start, stop, step along its axis
    operators: tuple[int, ...]  # indices of the captured operators that it stands for
    site: str  # the node of the captured model's graph that it belongs to; "" for a model that was not captured
    positions: int  # number of spatial or sequence positions: the resolution
    resamples: bool  # changes the resolution by more than a factor of 1.5 (padding, crops and broadcasts do not)
    constant: bool  # does not depend on a model input (parameters, masks made of sizes)
    live: bool  # reaches a model output
    output: bool  # is itself a model output

    flops: int  # multiply-adds spent by this operator
    parameters: int  # number of parameter elements this operator is the first to read
    bytes_out: int  # of the result (0 new bytes for a view is said by `is_view`)
    is_view: bool  # shares storage with its first operand
    saved_bytes: int  # bytes of this result that autograd keeps for the backward pass (training graphs only)
    held_at_peak: bool  # its storage is live at the first step that attains `Cost.peak_bytes`
    block: int  # number of the block of memory that the result lies in: views and writes in place share it
    workspace_bytes: int  # held while it runs besides operands and result: by its kernel, or by its inner operators
    # Of a convolution: kernel, stride, padding, dilation, transposed, groups, bias; of a group norm: groups; of a
    # permutation, a reduction and a selection by index: dims, and of the last index_bytes as well.
    settings: dict[str, Any]


class EdgeAttributes(TypedDict, total=False):
    """What an edge of a `SkipGraph` carries; its key is the operand's position in the consumer."""

    operand: int
    bytes: int
    flops: int  # the consumer's multiply-adds that are spent on this operand; over all edges they sum to the total
    attributed_flops: int  # the same, seen through concats and channel-wise operators
    held_steps: int  # steps from the production of the tensor to this use
    held_at_peak: bool
    skips: tuple[str, ...]  # ids of the skips whose shortcut operand this edge is


@dataclass(slots=True)
class Skip:
    """One shortcut operand of one merge.

    Attributes
    ----------
    id : str
        ``<merge id>:<operand>``, stable for one model.
    merge, source : str
        Node ids of the merge and of the fork that the shortcut starts from.
    kind : str
        ``"add"``, ``"concat"`` or ``"gated"``.
    span : str
        ``"short"`` or ``"long"``.
    shortcut : str
        ``"identity"`` or ``"projected"``.
    operand : int
        Position in ``Merge.operands``.
    operand_node : str
        Node id of the tensor that enters the merge.
    stem : tuple of str
        Node ids on the shortcut, source and merge excluded, in order of execution.
    leaves_last : str
        The last node by which the bypassed paths leave the source; after it a tensor is held for the skip alone.
    edges : int
        Skip edges it counts for: nested concats expanded (a dense block of L layers has L(L+1)/2).
    dense : bool
        Every merge that it encloses is fed by its source too.
    nesting : int
        How many skips enclose it.
    bypassed_layers : int
        Most layer operators on one path that it bypasses.
    coarsest_scale : float
        Lowest resolution (positions) on the bypassed paths over that of the source; 1.0 if nothing is coarser.
    bytes : int
        Size of the tensor that enters the merge.
    byte_steps : int
        Bytes times the steps for which a tensor is held because of this skip alone, after its last use on the main
        path.
    held_steps : int
        Those steps.
    held_at_peak : bool
        The tensor held for the skip is live at the first step that attains the memory peak.
    rewrites : dict
        What each possible rewrite would change: ``{"concat_to_sum": {"status", "reason", "delta"}}``.
    """

    id: str
    merge: str
    source: str
    kind: str
    span: str
    shortcut: str
    operand: int
    operand_node: str
    stem: tuple[str, ...] = ()
    leaves_last: str = ""
    edges: int = 1
    dense: bool = False
    nesting: int = 0
    bypassed_layers: int = 0
    coarsest_scale: float = 1.0
    bytes: int = 0
    byte_steps: int = 0
    held_steps: int = 0
    held_at_peak: bool = False
    rewrites: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(slots=True)
class Merge:
    """A sum of two or more tensors, or a concat of two or more.

    ``skips`` is empty for a merge that is no skip, and ``reason`` then says why: ``"parallel_branches"``,
    ``"slices"``, ``"other_axis"``, …; it is ``"skip"`` otherwise. ``span`` and ``shortcut`` are those of the merge as
    section 2 of the design counts it: a concat is long, and identity, if one of its shortcut operands is.
    ``nodes`` are the merge nodes that were flattened into this one, itself included.
    """

    id: str
    node: str
    kind: str
    axis: int | None
    operands: tuple[str, ...]
    skips: list[Skip] = field(default_factory=list)
    span: str | None = None
    shortcut: str | None = None
    reason: str = ""
    nodes: tuple[str, ...] = ()


@dataclass(slots=True)
class Gate:
    """A product in which exactly one factor is a gate: ``node`` rescales ``data`` by ``gate`` (node ids)."""

    node: str
    data: str
    gate: str


@dataclass(slots=True)
class Counts:
    """Counts of skips: every shortcut operand of a sum singly, a concat once.

    ``edges`` counts shortcut operands with nested concats expanded.
    """

    skips: int = 0
    add: int = 0
    concat: int = 0
    gated: int = 0
    short: int = 0
    long: int = 0
    identity: int = 0
    projected: int = 0
    edges: int = 0


@dataclass(slots=True)
class Cost:
    """Totals of one model at one input.

    Attributes
    ----------
    flops : int
        Multiply-adds (fvcore's convention: one multiply-add is one FLOP).
    flops_by_operator : dict
        The same by operator name; operators that fvcore has no rule for carry our own figure.
    own_rules : tuple of str
        Which of those names are priced by our rules, not by fvcore's.
    unpriced_operators : dict
        Operators that no rule covers, with how often they run. Never silently zero.
    activation_bytes : int
        Bytes of all operator results that are no views.
    peak_bytes : int
        Largest sum of live activation bytes in an eager forward, the inputs included, parameters not.
    peak_bytes_last_use : int
        The same if every tensor were freed at its last use.
    peak_step, peak_node : int, str
        The first step that attains ``peak_bytes``, and its operator.
    peak_workspace_bytes : int
        The part of ``peak_bytes`` that the kernel of that operator allocates for itself (PyTorch's CPU kernels).
    steps : int
        Number of steps: operators that are neither views nor inputs.
    saved_bytes : int or None
        What autograd keeps for the backward pass (``train=True`` only).
    parameters, parameter_bytes : int
        Of the model, shared ones once.
    """

    flops: int = 0
    flops_by_operator: dict[str, int] = field(default_factory=dict)
    own_rules: tuple[str, ...] = ()
    unpriced_operators: dict[str, int] = field(default_factory=dict)
    activation_bytes: int = 0
    peak_bytes: int = 0
    peak_bytes_last_use: int = 0
    peak_step: int = 0
    peak_node: str = ""
    peak_workspace_bytes: int = 0
    steps: int = 0
    saved_bytes: int | None = None
    parameters: int = 0
    parameter_bytes: int = 0


class SkipGraph(nx.MultiDiGraph):
    """A directed multigraph of operators whose edge keys are operand positions.

    Being a plain `networkx.MultiDiGraph`, it is taken by every networkx algorithm, and ``nx.node_link_data`` followed
    by ``nx.node_link_graph`` gives it back. ``graph.graph["modules"]`` maps module paths to class names, and
    ``graph.graph["index_edges"]`` lists the integer operands (token ids), which are no edges, as pairs of nodes. The
    lists below are filled by the stations that come after capture.
    """

    merges: list[Merge]
    gates: list[Gate]
    counts: Counts
    cost: Cost

    def __init__(self, incoming_graph_data: Any = None, **attributes: Any) -> None:
        super().__init__(incoming_graph_data, **attributes)
        self.merges = []
        self.gates = []
        self.counts = Counts()
        self.cost = Cost()

    @property
    def skips(self) -> list[Skip]:
        """All skips, one a shortcut operand, in the order of their merges."""
        return [skip for merge in self.merges for skip in merge.skips]

    def operands(self, node: str) -> Iterator[tuple[int, str]]:
        """``(position, producer)`` of every data operand of ``node``, in operand order."""
        found = ((key, source) for source, _, key in self.in_edges(node, keys=True))
        yield from sorted(found)
