"""The algebra: each law a small function on a graph, with its proof.

*a*, *b* stand for tensors, ``cat`` for concatenation along the feature axis, *W* for a linear layer, *f* for an
operator that works channel by channel. Every law holds in training and in evaluation mode, for outputs and gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

from skipgraph.passes.channels import Channels
from skipgraph.passes.edit import Edits, Product
from skipgraph.passes.factors import Window


def flatten(edits: Edits, outer: str, inner: str) -> None:
    """Law 1: ``cat(cat(a, b), c) = cat(a, b, c)``.

    Proof. Channel *i* of either side is channel *i* of *a*, channel *i* - |a| of *b* or channel *i* - |a| - |b| of *c*,
    by the same borders. ∎
    """
    operands = [
        operand
        for joined in edits.operands(outer)
        for operand in (edits.operands(inner) if joined == inner else [joined])
    ]
    edits.set_operands(outer, operands)


def distribute(edits: Edits, call: str, concats: Sequence[str], before: Channels, after: Channels) -> str:
    """Law 2: ``f(cat(a, b)) = cat(f_a(a), f_b(b))`` for channel-wise *f*; the new concat is returned.

    *f* may read several concats of the same widths, as ``x · sigmoid(x)`` does, and tensors that are no concats, which
    are cut like the channels; ``f_a`` has those slices of the parameters and buffers of *f* that belong to *a*. Where
    channels are folded into heads of several, each of one operand, the heads are meant by channels from there on: a
    product of matrices, and attention, work on each head alone.

    Proof. Channel *i* of ``f(x)`` is a function ``f_i`` of channel *i* of *x* alone, or with groups of the channels in
    the group of *i*, none of which straddles a border. On the left that channel is one of *a* or of *b*, on the right
    as well, and the same function is applied to it, since ``f_a`` consists of the ``f_i`` of *a*. Statistics of a
    batch norm are those of each channel alone, in either mode. ∎
    """
    parts = edits.parts(call, {concat: edits.operands(concat) for concat in concats}, before, after)
    joined = edits.concat(parts, after.axis, call)
    edits.replace(call, joined)
    return joined


def split(edits: Edits, layer: str, concat: str, before: Channels) -> str:
    """Law 3: ``W·cat(a, b) + c = (W_a·a + c) + W_b·b``; the sum is returned.

    Proof. An output channel *o* of a convolution, transposed convolution or linear layer without groups is
    ``c_o + Σ_i K_oi(x_i)``, linear in each input channel. The sum over *i* falls apart at the border; each part is the
    layer with the columns ``K_o·`` of its operand, and *c* is in one of them. A selection ``x ↦ x[π]`` is linear, too:
    its matrix has a one in row *i* at column ``π_i``, and zeros elsewhere, so that the part of an operand selects what
    is its own, and zeros for what is another's. That holds for every π, which may be a buffer of the state dict. ∎
    """
    summands = edits.summands(layer, {concat: edits.operands(concat)}, before)
    total = reduce(lambda left, right: edits.add(left, right, layer), summands)
    edits.replace(layer, total)
    return total


def merge(edits: Edits, total: str, products: Sequence[Product], window: Window, axis: int) -> str:
    """Law 4, with law 5: ``W_a·a + W_b·b = [W_a | W_b]·cat(a, b)``; what is put for the sum is returned.

    Kernels smaller than ``window`` have zeros around them. The parameters stay those of the layers; the one weight is
    laid out of them in each forward, so that no zero and no identity is ever trained.

    Proof. Read law 3 from right to left; the biases are added up. A kernel with zeros around it, and as much more
    padding, reads the same numbers at the same places. Law 5: ``x = I·x``, so an operand without a layer is the product
    with the identity, whose kernel has its one at the tap that reads the position itself. A batch norm in evaluation is
    ``y ↦ γ(y − μ)/√(σ² + ε) + β``, linear and channel by channel, so that ``norm(W·x + b)`` is a layer with the weight
    ``γ/√(σ² + ε)·W`` and the bias ``β + γ(b − μ)/√(σ² + ε)``. ∎
    """
    layer = edits.merged(products, window, axis, total)
    edits.replace(total, layer)
    return layer
