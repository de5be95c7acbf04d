"""A captured graph beside its original: outputs, gradients and buffers, bit for bit."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from skipgraph.capture.runnable import Captured, runnable
from skipgraph.capture.trees import map_tensors, tensors

Inputs = tuple[Any, ...] | dict[str, Any]


def redrawn(model: nn.Module) -> nn.Module:
    """The model with all its floating-point parameters and buffers drawn anew: fresh norms are all alike."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for tensor in {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}.values():
            if tensor.is_floating_point():
                noise = torch.rand(tensor.shape, generator=generator)
                tensor.mul_(1 + 0.1 * noise) if tensor.ndim > 1 else tensor.add_(0.1 * noise)
    return model


def run(model: nn.Module, inputs: Inputs, *, training: bool) -> tuple[Any, list[Tensor | None], list[Tensor]]:
    """Outputs, gradients of parameters and inputs, and buffers afterwards, from a seed."""
    model = copy.deepcopy(model).train(training)
    inputs = map_tensors(lambda x: x.clone().requires_grad_(x.is_floating_point()), inputs)
    torch.manual_seed(0)
    result = model(**inputs) if isinstance(inputs, dict) else model(*inputs)
    outputs = [tensor for tensor in tensors(result) if tensor.requires_grad]
    if outputs:
        sum((tensor * tensor.detach().cos()).sum() for tensor in outputs).backward()
    parameters = [parameter for _, parameter in sorted(model.named_parameters(remove_duplicate=False))]
    gradients = [tensor.grad for tensor in [*parameters, *tensors(inputs)]]
    return result, gradients, [buffer for _, buffer in sorted(model.state_dict().items())]


def assert_same(ours: Any, theirs: Any) -> None:
    """The same tree with equal tensors in it, NaN equal to NaN."""
    assert type(ours) is type(theirs)
    mine, others = list(tensors(ours)), list(tensors(theirs))
    assert len(mine) == len(others)
    for a, b in zip(mine, others, strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        assert a.requires_grad == b.requires_grad
        assert torch.equal(a.nan_to_num(), b.nan_to_num())


def assert_runs_alike(captured: Captured, model: nn.Module, inputs: Inputs, *, training: bool) -> None:
    ours, theirs = (run(one, inputs, training=training) for one in (captured, model))
    assert_same(ours[0], theirs[0])
    assert len(ours[1]) == len(theirs[1])
    for mine, other in zip(ours[1], theirs[1], strict=True):
        assert (mine is None) == (other is None)
        if mine is not None:
            assert torch.equal(mine, other)
    assert all(torch.equal(a, b) for a, b in zip(ours[2], theirs[2], strict=True))


def captured_alike(model: nn.Module, *inputs: Any, other: Inputs | None = None) -> Captured:
    """Capture, and compare in both modes, at the inputs given, at twice the batch and at ``other`` inputs."""
    model = redrawn(model)
    captured = runnable(model, inputs)
    assert_names_kept(captured, model)
    twice = map_tensors(lambda x: torch.cat([x, x.flip(-1)]) if x.ndim else x, inputs)
    for training in (False, True):
        for given in (inputs, twice, *([other] if other else [])):
            assert_runs_alike(captured, model, given, training=training)
    return captured


def assert_names_kept(captured: Captured, model: nn.Module) -> None:
    """Parameters, and the persistent buffers, under the same names."""
    assert list(captured.state_dict()) == list(model.state_dict())
    ours, theirs = ([name for name, _ in one.named_parameters(remove_duplicate=False)] for one in (captured, model))
    assert ours == theirs


def image(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))
