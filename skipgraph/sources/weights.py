"""The user's own weights: read without running anything that stands in the file, and checked against the model."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from skipgraph.errors import WeightsError, first_line

_SHOWN = 3  # keys of a kind that a message lists
_WRAPPERS = ("state_dict", "model_state_dict", "model")  # keys that training scripts file a state dict under
_PREFIXES = ("module.", "_orig_mod.")  # of DistributedDataParallel and torch.compile
_Tensors = dict[str, torch.Tensor]


def load_weights(model: torch.nn.Module, given: Path | Mapping[str, torch.Tensor]) -> None:
    """Load a state dict, or the one in a file, into ``model``.

    Into a model on the meta device no data is read: keys and shapes are compared.

    Raises
    ------
    WeightsError
        If the file cannot be read, is refused, or does not fit the model.
    """
    on_meta = any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    tensors = _read(given, "meta" if on_meta else "cpu") if isinstance(given, Path) else dict(given)
    own = model.state_dict(keep_vars=True)
    for prefix in _PREFIXES:
        if tensors and all(key.startswith(prefix) for key in tensors) and not any(key in own for key in tensors):
            tensors = {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}
    try:
        result = model.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        misfits = [line.strip() for line in str(error).splitlines()[1:]]
        raise _misfit(model, given, {"of another shape": misfits}) from None
    loaded = {id(own[key]) for key in own if key in tensors}
    missing = [key for key in result.missing_keys if id(own.get(key)) not in loaded]  # tied ones may be stored once
    if missing or result.unexpected_keys:
        raise _misfit(model, given, {"missing": missing, "unexpected": result.unexpected_keys})


def _misfit(
    model: torch.nn.Module, given: Path | Mapping[str, torch.Tensor], problems: dict[str, list[str]]
) -> WeightsError:
    parts = []
    for problem, keys in problems.items():
        if keys:
            more = f", and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
            parts.append(f"{len(keys)} {problem}: {', '.join(keys[:_SHOWN])}{more}")
    where = f" in {given}" if isinstance(given, Path) else ""
    return WeightsError(
        f"the weights{where} do not fit {type(model).__name__}: {'; '.join(parts)}",
        "Give the weights of this model, or build it as it was trained: path/model.py:Class(argument=…).",
    )


def _read(path: Path, device: str) -> _Tensors:
    if not path.is_file():
        raise WeightsError(f"no such file: {path}", "Check the path.")
    if path.suffix == ".safetensors":
        try:
            return _read_safetensors(path, device)
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{path} cannot be read: {error}", "Check that the file is whole.") from None
    try:
        content = torch.load(path, map_location=device, weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise _refused(path, error) from None
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise WeightsError(
            f"{path} cannot be read: {first_line(error)}", "Check that the file is whole, and a checkpoint."
        ) from None
    return _state_dict(content, path)


def _read_safetensors(path: Path, device: str) -> _Tensors:
    if device != "meta":
        return safetensors.torch.load_file(path, device=device)
    with safetensors.safe_open(path, framework="pt") as file:
        return {key: torch.empty(file.get_slice(key).get_shape(), device="meta") for key in file.keys()}  # noqa: SIM118


def _refused(path: Path, error: Exception) -> WeightsError:
    reason = next((line.strip() for line in str(error).splitlines() if "Unsupported" in line or "GLOBAL" in line), "")
    return WeightsError(
        f"{path} is refused: it is a pickle that would run code when it is loaded{f' ({reason})' if reason else ''}",
        "Save the weights alone, where the model can be loaded: torch.save(model.state_dict(), …), or as safetensors.",
    )


def _state_dict(content: Any, path: Path) -> _Tensors:
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise WeightsError(
            f"{path} holds no state dict, but a {type(content).__name__}",
            "Save the weights alone: torch.save(model.state_dict(), …).",
        )
    return dict(content)
