"""Other numbers in a model, and which of them may be changed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from skipgraph.errors import VerificationError, WeightsError
from skipgraph.passes.state_map import Piece, StateMap


def refuse_infinite(model: torch.nn.Module) -> None:
    """Raise if a parameter is infinite or NaN, or a buffer NaN (a buffer may be a mask of infinities).

    Raises
    ------
    WeightsError
        Naming the tensor.
    """
    parameters = dict(model.named_parameters())
    for name, tensor in model.state_dict().items():
        if tensor.device.type == "meta":
            raise WeightsError(f"{name} has no data", "Give weights: a rewrite is verified with numbers.")
        if not tensor.is_floating_point() and not tensor.is_complex():
            continue
        wrong = ~tensor.isfinite() if name in parameters else tensor.isnan()
        if bool(wrong.any()):
            count = int(wrong.sum())
            raise WeightsError(
                f"{count} of the {tensor.numel()} values of {name} {'is' if count == 1 else 'are'} infinite or NaN",
                "A rewrite is exact for finite weights only: give weights that are finite.",
            )


def redraw(model: torch.nn.Module, seed: int) -> None:
    """Draw every parameter and every persistent floating-point buffer anew, in place.

    Matrices and kernels by He et al. (2015), so that the activations of deep networks keep their size; scales of norms
    and layers about 1, biases about 0, variances positive. With fresh initialisation the channels of a norm are all
    alike, biases and the last scales zero, and a mistake among them shows nowhere.

    What is not persistent is made by the code (masks, positions) and stays; so do buffers of whole numbers, which are
    tables. A tensor under two names is drawn once.
    """
    generator = torch.Generator().manual_seed(seed)
    seen: set[int] = set()
    with torch.no_grad():
        for path, module in model.named_modules():
            statistics = "running_var" in module._buffers
            for name, parameter in module._parameters.items():
                if parameter is not None and id(parameter) not in seen:
                    seen.add(id(parameter))
                    parameter.copy_(_weights(f"{path}.{name}", parameter, generator))
            for name, buffer in module._buffers.items():
                kept = buffer is None or name in module._non_persistent_buffers_set or id(buffer) in seen
                if not kept and buffer.is_floating_point():
                    seen.add(id(buffer))
                    buffer.copy_(_buffer(name, buffer, generator, statistics=statistics))


def _weights(name: str, old: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    if not old.is_floating_point() and not old.is_complex():
        return old
    noise = torch.randn(old.shape, generator=generator, dtype=torch.float64).to(old.device)
    if old.ndim < 2 or sum(size > 1 for size in old.shape) < 2:  # a vector, maybe (C, 1, 1)
        return 0.3 * noise if "bias" in name.rpartition(".")[2] else 1 + 0.3 * noise
    return noise * math.sqrt(2 / (old.numel() / old.shape[0]))


def _buffer(name: str, old: torch.Tensor, generator: torch.Generator, *, statistics: bool) -> torch.Tensor:
    uniform = torch.rand(old.shape, generator=generator, dtype=torch.float64).to(old.device)
    if statistics:  # a norm's, whatever else it keeps as buffers (frozen scales)
        return 0.5 + uniform if "var" in name or "weight" in name else uniform - 0.5
    alike = old.ndim == 1 and old.numel() > 1 and bool((old == old[0]).all()) and bool(old.isfinite().all())
    if not alike and bool((old == old.round()).all()):
        return old
    return old * (0.7 + 0.6 * uniform) + (0.1 * uniform if alike else 0.0)


def check_fits(before: torch.nn.Module, after: torch.nn.Module, state_map: StateMap) -> None:
    """Raise unless the map gives ``after`` each tensor that it keeps, in its shape.

    Raises
    ------
    VerificationError
    """
    wanted = {name: tensor.shape for name, tensor in state_map.forward(before.state_dict()).items()}
    found = {name: tensor.shape for name, tensor in after.state_dict().items()}
    if wrong := sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)):
        raise VerificationError(f"the state map does not fit the rewritten model at {', '.join(wrong[:3])}")


def carry(before: torch.nn.Module, after: torch.nn.Module, state_map: StateMap) -> None:
    """Load into ``after`` what follows from ``before``."""
    after.load_state_dict(state_map.forward(before.state_dict()), strict=True)


def parameters(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """By all of their names."""
    return dict(model.named_parameters(remove_duplicate=False))


@contextmanager
def nudged(model: torch.nn.Module, seed: int) -> Iterator[None]:
    """Every value of every parameter one unit in the last place off, up or down."""
    generator = torch.Generator().manual_seed(seed)
    before = [(parameter, parameter.detach().clone()) for parameter in model.parameters()]
    try:
        with torch.no_grad():
            for parameter, old in before:
                parameter.copy_(nudge(old, generator))
        yield
    finally:
        with torch.no_grad():
            for parameter, old in before:
                parameter.copy_(old)


def nudge(tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """The tensor with every value one unit in the last place up or down."""
    if not tensor.is_floating_point():
        return tensor
    signs = torch.randint(2, tensor.shape, generator=generator).to(tensor.device, tensor.dtype) * 2 - 1
    return tensor * (1 + torch.finfo(tensor.dtype).eps * signs)


def check_flags(before: torch.nn.Module, after: torch.nn.Module, state_map: StateMap) -> None:
    """Raise unless the pieces of frozen parameters are frozen, and others are not.

    Raises
    ------
    VerificationError
    """
    theirs = {name: torch.tensor(one.requires_grad) for name, one in parameters(before).items()}
    wanted = StateMap(tuple(_whole(state_map))).forward(theirs)
    for name, parameter in parameters(after).items():
        if name in wanted and bool(wanted[name]) != parameter.requires_grad:
            state = "is trained" if parameter.requires_grad else "is frozen"
            raise VerificationError(f"{name} {state} in the rewritten model, and is not in the original")


def _whole(state_map: StateMap) -> Iterator[Piece]:
    for piece in state_map.pieces:
        yield Piece(piece.old, piece.new)


def named_buffers(model: torch.nn.Module) -> Mapping[str, torch.Tensor]:
    """By all of their names."""
    return dict(model.named_buffers(remove_duplicate=False))
