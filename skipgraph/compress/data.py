"""Calibration data: the model's own inputs, in batches, as often as they are asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skipgraph.capture.trees import map_tensors, tensors
from skipgraph.errors import InputError

Batch = tuple[tuple[Any, ...], dict[str, Any]]
BATCH = 32  # samples, of files


class Calibration:
    """Goes through calibration data, batch by batch, each checked against the example inputs.

    Parameters
    ----------
    data : iterable
        Of batches: a tensor, a tuple or list of positional inputs (what follows the last of them, labels for instance,
        is left out), or a dict of keyword inputs. A `torch.utils.data.DataLoader` is one. It is gone through several
        times, and never held.
    example : tuple
        Positional and keyword example inputs.

    Raises
    ------
    InputError
        If it can be gone through only once; while iterating, if a batch does not fit the model, or has numbers that
        are not finite.
    """

    def __init__(self, data: Iterable[Any], example: Batch) -> None:
        if not isinstance(data, Iterable):
            raise InputError(
                f"calibration data of type {type(data).__name__} cannot be gone through",
                "Give batches, or a DataLoader.",
            )
        if isinstance(data, Iterator):
            raise InputError(
                "the calibration data can be gone through only once, and is needed several times",
                "Give a list or a DataLoader instead of an iterator or a generator.",
            )
        self._data = data
        self._example = example

    def __iter__(self) -> Iterator[Batch]:
        """Batches as positional and keyword inputs, on the model's device."""
        count = 0
        for number, batch in enumerate(self._data):
            inputs = self._inputs(batch, number)
            self._check(inputs, number)
            count += 1
            yield inputs
        if not count:
            raise InputError("the calibration data is empty", "Give at least some batches of the model's inputs.")

    def samples(self) -> int:
        """How many samples there are in all."""
        return sum(next(tensors(batch)).shape[0] for batch in self)

    def _inputs(self, batch: Any, number: int) -> Batch:
        args, kwargs = self._example
        given: Sequence[Any]
        if isinstance(batch, Mapping):
            names = [*kwargs] or [str(name) for name in batch][: len(args)]
            missing = [name for name in names if name not in batch]
            if missing or (args and kwargs):
                raise InputError(
                    f"batch {number} of the calibration data has no {missing[0] if missing else 'positional inputs'}",
                    f"The model takes {len(args)} positional inputs{' and ' + ', '.join(kwargs) if kwargs else ''}.",
                )
            values = [batch[name] for name in names]
            return ((), dict(zip(names, values, strict=True))) if kwargs else (tuple(values), {})
        given = batch if isinstance(batch, (tuple, list)) else (batch,)
        if len(given) < len(args) + len(kwargs):
            raise InputError(
                f"batch {number} of the calibration data has {len(given)} inputs; the model takes "
                f"{len(args) + len(kwargs)}",
                "Give a tuple of all of them, or a dict.",
            )
        keyword = dict(zip(kwargs, given[len(args) :], strict=False))
        return tuple(given[: len(args)]), keyword

    def _check(self, inputs: Batch, number: int) -> None:
        wanted, found = list(tensors(self._example)), list(tensors(map_tensors(torch.as_tensor, inputs)))
        if len(wanted) != len(found):
            raise InputError(f"batch {number} of the calibration data is of another structure than the inputs", "")
        for example, tensor in zip(wanted, found, strict=True):
            shapes = f"{_shape(tensor)} where the model takes {_shape(example)}"
            if tensor.dim() != example.dim() or tensor.shape[1:2] != example.shape[1:2]:
                raise InputError(
                    f"batch {number} of the calibration data is of shape {shapes}",
                    "Only the number of samples and, if the model allows, spatial sizes may differ.",
                )
            if tensor.is_floating_point() != example.is_floating_point():
                raise InputError(
                    f"batch {number} of the calibration data is {tensor.dtype}, where the model takes {example.dtype}",
                    "Give it as the model takes it.",
                )
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise InputError(
                    f"batch {number} of the calibration data has NaN or infinite numbers", "Leave such samples out."
                )


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


class _Arrays:
    """Arrays with the samples along their first axis, in batches."""

    def __init__(self, arrays: Mapping[str, Any], keyword: bool) -> None:
        self._arrays, self._keyword = arrays, keyword

    def __iter__(self) -> Iterator[Any]:
        count = len(next(iter(self._arrays.values())))
        for start in range(0, count, BATCH):
            parts = {
                name: torch.from_numpy(np.ascontiguousarray(array[start : start + BATCH]))
                for name, array in self._arrays.items()
            }
            yield parts if self._keyword else tuple(parts.values())


class _Files:
    """A directory of .npy files, each a sample or a batch of the only input."""

    def __init__(self, paths: Sequence[Path], example: Tensor) -> None:
        self._paths, self._example = paths, example

    def __iter__(self) -> Iterator[Tensor]:
        waiting: list[Tensor] = []
        for path in self._paths:
            tensor = torch.from_numpy(_loaded(path))
            if tensor.dim() == self._example.dim():
                yield tensor
                continue
            waiting.append(tensor)
            if len(waiting) == BATCH:
                yield _stacked(waiting)
                waiting = []
        if waiting:
            yield _stacked(waiting)


def _stacked(samples: list[Tensor]) -> Tensor:
    if len({one.shape for one in samples}) > 1:
        raise InputError(
            f"samples of the calibration data are of shapes {_shape(samples[0])} and others",
            "Give samples of one size.",
        )
    return torch.stack(samples)


def _loaded(path: Path) -> Any:
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as numpy data: {error}", "Give files that numpy.save wrote.") from None


def from_text(text: str, example: Batch) -> Calibration:
    """Calibration data as the command line takes it.

    Parameters
    ----------
    text : str
        ``file.npz`` (arrays by the names of the inputs, or in their order, samples first), a directory of ``.npy``
        files (a sample or a batch each), or ``module:name`` of an iterable, or of a function that returns one.
    example : tuple
        Positional and keyword example inputs.

    Raises
    ------
    InputError
        If there is no such data.
    """
    path = Path(text)
    if path.is_dir():
        files = sorted(path.glob("*.npy"))
        if not files:
            raise InputError(f"{text} holds no .npy files", "Give a directory of files that numpy.save wrote.")
        if len(list(tensors(example))) != 1:
            raise InputError("a directory of .npy files can serve only one input", "Give an .npz file instead.")
        return Calibration(_Files(files, next(tensors(example))), example)
    if path.suffix == ".npz" or path.is_file():
        loaded = _loaded(path)
        arrays = dict(loaded) if path.suffix == ".npz" else {"input": loaded}
        if not arrays or len({len(array) for array in arrays.values() if array.ndim}) != 1:
            raise InputError(f"the arrays of {text} have different numbers of samples, or none", "Put samples first.")
        keyword = bool(example[1]) and set(example[1]) <= set(arrays)
        return Calibration(_Arrays(arrays, keyword), example)
    return Calibration(_imported(text), example)


def _imported(text: str) -> Iterable[Any]:
    module, _, name = text.partition(":")
    if not name:
        raise InputError(
            f"there is no calibration data at {text}", "Give an .npz file, a directory of .npy files, or MODULE:LOADER."
        )
    try:
        found: Any = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"{text} cannot be imported: {error}", "Give MODULE:LOADER as Python would import it."
        ) from None
    made: Iterable[Any] = found() if isinstance(found, Callable) and not isinstance(found, Iterable) else found  # type: ignore[arg-type]
    return made
