"""Law 7: a linear layer as two layers of lower rank, ``W ≈ W'·P``, in closed form or by descent from it.

A weight is looked at as a tensor (out, in, taps): one tap for a linear layer or a 1×1 convolution, the elements of the
kernel for others. There are two forms of rank *r*.

- *project*: P is (r, in), applied at each position, and W' is (out, r, taps). On a concat P is ``[P_a | P_b]``, so
  that what is added up, and held, has r channels.
- *restore*: P is (r, in, taps) and W' is (out, r): the kernel makes r channels, of which the outputs are restored.

With one tap they are the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, cg

Array = NDArray[np.float64]
Form = Literal["project", "restore"]

DESCENTS = 6  # of alternating least squares; each descends in P and solves for W' exactly
_STEPS = 12  # of conjugate gradients in P


@dataclass(frozen=True, slots=True)
class Factors:
    """Two factors of a weight.

    Attributes
    ----------
    form : str
    first : array
        P, (r, in, taps of P).
    second : array
        W', (out, r, taps of W').
    error : float
        ``sqrt(E‖W z − W'P z‖² / E‖W z‖²)`` under the moments that the factors were made by, which is predicted for
        data of that kind; both centred where there are moments.
    """

    form: Form
    first: Array
    second: Array
    error: float

    @property
    def rank(self) -> int:
        """Channels between the two."""
        return len(self.first)

    def product(self) -> Array:
        """``W'P`` as one weight, (out, in, taps)."""
        if self.form == "project":
            return _on_channels(self.second, self.first[:, :, 0])
        return _on_outputs(self.second[:, :, 0], self.first)


@dataclass(frozen=True, slots=True)
class Moments:
    """Second moments of what a layer reads, centred.

    Attributes
    ----------
    channels : array
        Covariance of the input channels, (in, in).
    patches : array or None
        Covariance of whole patches, (in · taps, in · taps), channels first; None where that would be too large. It is
        ``channels`` if there is one tap.
    outputs : array
        Covariance of what the layer makes, (out, out).
    """

    channels: Array
    patches: Array | None
    outputs: Array


class Factoring:
    """The best factors of a weight that are known, of any rank, from one decomposition.

    Without moments they are the truncated SVD of the unfolded weight, the minimum of ``‖W − W'P‖`` (Eckart and Young,
    1936). With moments they are the minimum of ``E‖W z − W'P z‖²``:

    - *restore*, and *project* with one tap: W' are the leading eigenvectors U of the covariance of ``W z``, and
      ``P = UᵀW`` (reduced-rank regression; Izenman, 1975).
    - *project* with more taps, where P is shared by all of them: the SVD of the weight whitened by the covariance of
      the channels is the start; with the covariance of the patches, W' is refitted and P descended in turn, which never
      increases the error. That is a local optimum.

    Parameters
    ----------
    weight : array
        (out, in, taps).
    form : str
    moments : Moments, optional
    """

    def __init__(self, weight: Array, form: Form, moments: Moments | None = None) -> None:
        self._weight = weight
        self._form: Form = form
        self._patches = moments.patches if moments is not None and weight.shape[2] > 1 else None
        self._restores = form == "restore" or (weight.shape[2] == 1 and moments is not None)
        self._roots: tuple[Array, Array] | None = None
        if self._restores:
            flat = _flat(weight)
            gram = flat @ flat.T if moments is None else moments.outputs  # the covariance of W z, z white without data
        else:
            by_tap = weight.transpose(0, 2, 1).reshape(-1, weight.shape[1])
            gram = by_tap.T @ by_tap
            if moments is not None:
                self._roots = _root(moments.channels)
                gram = self._roots[0] @ gram @ self._roots[0]
        values, vectors = scipy.linalg.eigh(gram)
        self._energies, self._vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]

    def at(self, rank: int, *, descents: int = DESCENTS) -> Factors:
        """Factors of a rank.

        Parameters
        ----------
        rank : int
            From 1 to `full_rank`.
        descents : int
            How often P is descended, and W' refitted after. 0 is quick, and a bound of what more would give.

        Raises
        ------
        ValueError
            If the rank is not one that the form has.
        """
        full = full_rank(self._weight, self._form)
        if not 1 <= rank <= full:
            raise ValueError(f"rank {rank} is not between 1 and {full}")
        leading = self._vectors[:, :rank]
        error = float(np.sqrt(self._energies[rank:].sum() / max(self._energies.sum(), np.finfo(float).tiny)))
        if self._restores:
            first = _on_outputs(leading.T, self._weight)
            return Factors(self._form, first, leading[:, :, None], error)
        root, inverse = self._roots or (None, None)
        first = leading.T if inverse is None else leading.T @ inverse
        if self._patches is not None:
            first, second, error = _descended(self._weight, first, self._patches, descents)
        else:
            second = _on_channels(self._weight, leading if root is None else root @ leading)
        return Factors("project", first[:, :, None], second, error)


def factored(
    weight: Array, rank: int, form: Form, moments: Moments | None = None, *, descents: int = DESCENTS
) -> Factors:
    """Factors of one rank: see `Factoring`."""
    return Factoring(weight, form, moments).at(rank, descents=descents)


def full_rank(weight: Array, form: Form) -> int:
    """The rank at which a form is exact."""
    out, channels, taps = map(int, weight.shape)
    return min(out, channels * taps) if form == "restore" else min(channels, out * taps)


def _root(covariance: Array) -> tuple[Array, Array]:
    """``S`` and its inverse with ``S·S = covariance``; directions without variance are left out of the inverse."""
    values, vectors = scipy.linalg.eigh(covariance)
    values = np.maximum(values, 0.0)
    floor = values.max(initial=0.0) * len(values) * np.finfo(float).eps
    inverse = np.where(values > floor, 1.0 / np.sqrt(np.maximum(values, np.finfo(float).tiny)), 0.0)
    return (vectors * np.sqrt(values)) @ vectors.T, (vectors * inverse) @ vectors.T


# -- descent -----------------------------------------------------------------------------------------------------------


def _descended(weight: Array, first: Array, patches: Array, descents: int) -> tuple[Array, Array, float]:
    """Alternating least squares under the covariance of the patches."""
    wanted = _flat(weight)
    total = max(float(np.sum((wanted @ patches) * wanted)), np.finfo(float).tiny)
    taps = weight.shape[2]
    second = _refitted(wanted, first, patches, taps)
    for _ in range(descents):
        first = _moved(wanted, first, second, patches)
        second = _refitted(wanted, first, patches, taps)
    rest = wanted - _flat(_on_channels(second, first))
    error = max(float(np.sum((rest @ patches) * rest)), 0.0) / total
    return first, second, float(np.sqrt(error))


def _on_channels(weight: Array, matrix: Array) -> Array:
    """A weight (out, in, taps) times a matrix (in, other), tap by tap: (out, other, taps)."""
    return np.asarray((weight.transpose(0, 2, 1) @ matrix).transpose(0, 2, 1))


def _on_outputs(matrix: Array, weight: Array) -> Array:
    """A matrix (other, out) times a weight (out, in, taps): (other, in, taps)."""
    return (matrix @ _flat(weight)).reshape(len(matrix), *weight.shape[1:])


def _flat(weight: Array) -> Array:
    """(out, in, taps) -> (out, in · taps)."""
    return weight.reshape(weight.shape[0], -1)


def _refitted(wanted: Array, first: Array, patches: Array, taps: int) -> Array:
    """The best W' for a P: least squares, (out, r, taps)."""
    rank, channels = first.shape
    crossed = (first @ patches.reshape(channels, -1)).reshape(rank * taps, channels * taps)
    gram = (first @ crossed.T.reshape(channels, -1)).reshape(rank * taps, rank * taps)
    ridge = np.trace(gram) / len(gram) * 1e-12 or 1.0  # nothing is read: any W' does
    solved = scipy.linalg.solve(gram + ridge * np.eye(len(gram)), crossed @ wanted.T, assume_a="pos")
    return np.asarray(solved.T.reshape(len(wanted), len(first), taps))


def _moved(wanted: Array, first: Array, second: Array, patches: Array) -> Array:
    """A better P for a W': conjugate gradients on the quadratic, which never increases it."""
    rank, channels = first.shape
    taps = second.shape[2]
    flat = _flat(second)  # (out, r · taps)
    gram = (flat.T @ flat).reshape(rank, taps, rank * taps)
    by_tap = patches.reshape(channels, taps, channels, taps)
    read = np.ascontiguousarray(by_tap.transpose(3, 0, 1, 2)).reshape(taps, channels, taps * channels)

    def curvature(direction: Array) -> Array:
        spread = direction.reshape(rank, channels)
        total = np.zeros((rank, channels))
        for tap in range(taps):  # P meets each tap alone: the gradient of the spread P is summed over its diagonal
            made = (spread @ read[tap]).reshape(rank * taps, channels)
            total += gram[:, tap] @ made
        return total.ravel()

    size = rank * channels
    pulled = (flat.T @ (wanted @ patches)).reshape(rank, taps, channels, taps)
    target = np.einsum("rtit->ri", pulled).ravel()
    found, _ = cg(LinearOperator((size, size), matvec=curvature), target, x0=first.ravel(), maxiter=_STEPS, rtol=1e-8)
    return np.asarray(found).reshape(rank, channels)
