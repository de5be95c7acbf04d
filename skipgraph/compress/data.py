"""Calibration data: the model's own inputs, in batches, as often as they are asked for."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from skipgraph.capture.trees import map_tensors, tensors
from skipgraph.errors import InputError, SkipgraphError

Batch = tuple[tuple[Any, ...], dict[str, Any]]
BATCH = 32  # samples, of files
_UNNAMED = re.compile(r"arr_\d+")  # what numpy.savez calls arrays that were given no name


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
    names : sequence of str
        Of the positional inputs, by which a dict is read.

    Raises
    ------
    InputError
        If it can be gone through only once; while iterating, if a batch does not fit the model, or has numbers that
        are not finite.
    """

    def __init__(self, data: Iterable[Any], example: Batch, names: Sequence[str] = ()) -> None:
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
        self._names = [*names[: len(example[0])], *example[1]]

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
        if isinstance(batch, Mapping):
            values = self._by_name(batch, number)
            return tuple(values[: len(args)]), dict(zip(kwargs, values[len(args) :], strict=True))
        given: Sequence[Any]
        given = batch if isinstance(batch, (tuple, list)) else (batch,)
        if len(given) < len(args) + len(kwargs):
            raise InputError(
                f"batch {number} of the calibration data has {len(given)} inputs; the model takes "
                f"{len(args) + len(kwargs)}",
                "Give a tuple of all of them, or a dict.",
            )
        keyword = dict(zip(kwargs, given[len(args) :], strict=False))
        return tuple(given[: len(args)]), keyword

    def _by_name(self, batch: Mapping[Any, Any], number: int) -> list[Any]:
        count = len(self._example[0]) + len(self._example[1])
        if len(batch) == count == 1:
            return list(batch.values())
        missing = [name for name in self._names if name not in batch]
        if missing or len(self._names) != count:
            raise InputError(
                f"batch {number} of the calibration data has {', '.join(map(str, batch))}, "
                f"where the model takes {', '.join(self._names) or f'{count} inputs'}",
                "Name the arrays as the model's forward does.",
            )
        return [batch[name] for name in self._names]

    def _check(self, inputs: Batch, number: int) -> None:
        wanted, found = list(tensors(self._example)), list(tensors(map_tensors(torch.as_tensor, inputs)))
        if len(wanted) != len(found):
            raise InputError(f"batch {number} of the calibration data is of another structure than the inputs", "")
        for example, tensor in zip(wanted, found, strict=True):
            shapes = f"{_shape(tensor)} where the model takes {_shape(example)}"
            if tensor.dim() and not len(tensor):
                raise InputError(f"batch {number} of the calibration data has no samples", "Leave it out.")
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
    """Arrays with the samples along their first axis, in batches: dicts, or tuples where they have no names."""

    def __init__(self, arrays: Mapping[str, Any]) -> None:
        self._arrays = arrays
        self._named = not all(_UNNAMED.fullmatch(name) for name in arrays)

    def __iter__(self) -> Iterator[Any]:
        count = len(next(iter(self._arrays.values())))
        for start in range(0, count, BATCH):
            parts = {name: _tensor(array[start : start + BATCH], name) for name, array in self._arrays.items()}
            yield parts if self._named else tuple(parts.values())


class _Files:
    """A directory of .npy files, each a sample or a batch of the only input."""

    def __init__(self, paths: Sequence[Path], example: Tensor) -> None:
        self._paths, self._example = paths, example

    def __iter__(self) -> Iterator[Tensor]:
        waiting: list[Tensor] = []
        for path in self._paths:
            tensor = _tensor(_loaded(path), path)
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


def _tensor(array: Any, name: object) -> Tensor:
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "bifcu":
        raise InputError(f"{name} is no array of numbers", "Give arrays of floats, integers or booleans.")
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    return torch.from_numpy(np.ascontiguousarray(native))


def _loaded(path: Path) -> Any:
    try:
        found = np.load(path, allow_pickle=False)
        arrays = found if isinstance(found, np.ndarray) else {name: found[name] for name in found.files}
        if isinstance(arrays, dict) and not all(isinstance(array, np.ndarray) for array in arrays.values()):
            raise ValueError("it is another kind of archive")
        return arrays
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError, KeyError, zlib.error) as error:
        told = str(error).partition(". ")[0]
        raise InputError(
            f"{path} cannot be read as numpy data: {told}", "Give files that numpy.save or numpy.savez wrote."
        ) from None


def from_text(text: str, example: Batch, names: Sequence[str] = ()) -> Iterable[Any]:
    """Calibration data as the command line takes it.

    Parameters
    ----------
    text : str
        ``file.npz`` (arrays by the names of the inputs, or in their order where they have none; samples first), a
        directory of ``.npy`` files (a sample or a batch each), or ``module:name`` of an iterable, or of a function that
        returns one; the module may lie in the current directory.
    example : tuple
        Positional and keyword example inputs.
    names : sequence of str
        Of the positional inputs.

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
        return _Files(files, next(tensors(example)))
    if path.suffix in (".npz", ".npy") or path.is_file():
        loaded = _loaded(path)
        arrays = loaded if isinstance(loaded, dict) else {"arr_0": loaded}
        wanted = [*names[: len(example[0])], *example[1]]
        arrays = {name: arrays[name] for name in wanted} if wanted and set(wanted) <= set(arrays) else arrays
        if not arrays or len({len(array) if array.ndim else -1 for array in arrays.values()}) != 1:
            raise InputError(f"the arrays of {text} have different numbers of samples, or none", "Put samples first.")
        return _Arrays(arrays)
    return _imported(text)


def input_names(model: nn.Module) -> list[str]:
    """Names of the positional parameters of a model's forward."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return []
    return [parameter.name for parameter in parameters if parameter.kind in kinds]


def _imported(text: str) -> Iterable[Any]:
    module, _, name = text.partition(":")
    if not name:
        raise InputError(
            f"there is no calibration data at {text}", "Give an .npz file, a directory of .npy files, or MODULE:LOADER."
        )
    sys.path.insert(0, str(Path.cwd()))
    try:
        found: Any = getattr(importlib.import_module(module), name)
        made: Iterable[Any] = found() if callable(found) and not isinstance(found, Iterable) else found
    except SkipgraphError:
        raise
    except Exception as error:
        raise InputError(
            f"{text} cannot be imported: {type(error).__name__}: {error}",
            "Give MODULE:LOADER as Python would import it.",
        ) from None
    finally:
        sys.path.remove(str(Path.cwd()))
    return made
