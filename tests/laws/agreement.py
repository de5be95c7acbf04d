"""A model and the same rewritten, compared in float64: outputs, gradients and buffers, in both modes."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from skipgraph.rewriting import Rewrite, Rewritten, planned

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

TOLERANCE = 1e-10


def rewritten(model: nn.Module, inputs: tuple[Tensor, ...], rewrite: Rewrite, only: Sequence[str] = ()) -> Rewritten:
    """The model rewritten wherever it can be, whether or not that is worth it, unverified."""
    return planned(model, inputs, rewrite, only=only, execution="separate")


def done(result: Rewritten) -> list[str]:
    """The merges that were rewritten."""
    return [outcome.id for outcome in result.plan.outcomes if outcome.status == "rewritten"]


def reasons(result: Rewritten) -> dict[str, str]:
    """The merges that were left alone, with the reasons."""
    return {outcome.id: outcome.reason for outcome in result.plan.outcomes if outcome.status != "rewritten"}


def assert_agreement(model: nn.Module, result: Rewritten, inputs: tuple[Tensor, ...], seed: int = 0) -> None:
    """Compare a model, which did not go through any capture, with what it was rewritten to.

    All parameters and buffers are redrawn: with fresh ones all channels of a norm would be equal.
    """
    generator = torch.Generator().manual_seed(seed)
    inputs = tuple(
        torch.rand(tensor.shape, generator=generator, dtype=torch.float64) - 0.5
        if tensor.is_floating_point()
        else tensor
        for tensor in inputs
    )
    old, new = copy.deepcopy(model).double(), copy.deepcopy(result.model).double()
    state = {name: _drawn(name, tensor, generator) for name, tensor in old.state_dict().items()}
    state_map = result.plan.state_map
    for training in (False, True):
        old.load_state_dict(state)
        new.load_state_dict(state_map.forward(state))
        old.train(training)
        new.train(training)
        wanted, wanted_gradients = _run(old, inputs)
        got, got_gradients = _run(new, inputs)
        _compare(wanted, got)
        _compare(wanted_gradients, state_map.backward(got_gradients))
        _compare(old.state_dict(), state_map.backward(new.state_dict()))


def _drawn(name: str, tensor: Tensor, generator: torch.Generator) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    drawn = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
    return drawn + 0.5 if "running_var" in name else drawn - 0.4


def _run(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Outputs, and gradients by the names of parameters and the numbers of inputs."""
    model.zero_grad()
    leaves = [tensor.clone().requires_grad_(tensor.is_floating_point()) for tensor in inputs]
    result: Any = model(*(leaf.clone() for leaf in leaves))
    outputs = result if isinstance(result, (tuple, list)) else [result]
    cotangents = torch.Generator().manual_seed(1)
    sum(
        (output * torch.rand(output.shape, generator=cotangents, dtype=output.dtype)).sum() for output in outputs
    ).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    gradients |= {f"input {number}": leaf.grad for number, leaf in enumerate(leaves)}
    named = {f"output {number}": output.detach() for number, output in enumerate(outputs)}
    return named, {name: gradient for name, gradient in gradients.items() if gradient is not None}


def _compare(wanted: Mapping[str, Tensor], got: Mapping[str, Tensor]) -> None:
    assert wanted.keys() == got.keys()
    # The gradient of a bias in front of a batch norm is rounding noise: it is measured by the largest one.
    scale = max((float(tensor.abs().max()) for tensor in wanted.values() if tensor.numel()), default=0.0)
    for name, tensor in wanted.items():
        assert tensor.shape == got[name].shape, name
        error = float((tensor - got[name]).abs().max()) if tensor.numel() else 0.0
        assert error <= TOLERANCE * max(scale, 1e-3), f"{name} is off by {error:.3g}"
