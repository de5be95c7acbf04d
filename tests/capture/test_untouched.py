"""The model is the same afterwards, whatever its forward does and however capture ends."""

from __future__ import annotations

import functools
from collections import defaultdict, deque
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from skipgraph.capture import capture, runnable
from skipgraph.errors import CaptureError
from tests.helpers.tracing import Written


class Mutating(nn.Module):
    """Counts its calls, caches a tensor, makes a layer, a buffer and a hook on the way, appends to a list."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.linear = nn.Linear(4, 4)
        self.calls = 0
        self.anchors: Tensor | None = None
        self.seen: list[Any] = []
        self.table: dict[str, Any] = {}
        self.last: deque[Any] = deque([1, 2], maxlen=2)
        self.by_name: defaultdict[str, list[Any]] = defaultdict(list)
        self.register_buffer("cache", None)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.anchors = x.new_zeros(3)
        self.seen.append(x)
        self.table["x"] = x
        self.last.append(x)
        self.by_name["x"].append(x)
        self.cache = x * 2
        self.late = nn.Linear(4, 4, device=x.device)
        self.linear.register_forward_hook(lambda *_: None)
        self.linear.weight = nn.Parameter(self.linear.weight * 2)
        return self.late(self.linear(self.norm(x)))


class Raising(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Mutating()

    def forward(self, x: Tensor) -> Tensor:
        self.inner(x)
        raise ValueError("no luck today")


def state(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Everything that its modules hold, by identity where that is what counts."""
    return {
        path: {
            name: dict(value) if isinstance(value, dict) else list(value) if isinstance(value, list | deque) else value
            for name, value in vars(module).items()
        }
        for path, module in model.named_modules()
    }


def same(before: Any, after: Any) -> bool:
    if isinstance(before, dict):
        return before.keys() == after.keys() and all(same(before[key], after[key]) for key in before)
    return before is after or (not isinstance(before, Tensor) and before == after)


@pytest.mark.parametrize("train", [False, True])
def test_forwards_that_mutate_the_module(train: bool) -> None:
    model = Mutating()
    before = state(model)
    data = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    program = capture(model, (torch.empty(2, 4),), train=train)
    assert len(program.operators) > 3
    assert same(before, state(model))
    assert all(torch.equal(tensor, data[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("train", [False, True])
def test_after_an_exception(train: bool) -> None:
    model = Raising()
    before = state(model)
    with pytest.raises(CaptureError, match="no luck today"):
        capture(model, (torch.empty(2, 4),), train=train)
    assert same(before, state(model))


def test_modes_of_each_module_are_as_they_were() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout())
    model.train()
    model[1].eval()
    for train in (False, True):
        program = capture(model, (torch.empty(2, 4),), train=train)
        assert [module.training for module in model.modules()] == [True, True, False, True]
        assert program.training == train
        assert ("bernoulli" in [operator.name for operator in program.operators]) == train


def test_gradients_flags_and_data_stay() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    model[0].weight.requires_grad_(False)
    model(torch.ones(3, 4)).sum().backward()
    gradient = model[0].bias.grad
    pointers = [tensor.data_ptr() for tensor in model.state_dict().values()]
    x = torch.randn(3, 4, requires_grad=True)
    capture(model, (x,), train=True)
    assert [tensor.data_ptr() for tensor in model.state_dict().values()] == pointers
    assert not model[0].weight.requires_grad
    assert model[0].bias.requires_grad
    assert model[0].bias.grad is gradient
    assert x.grad is None
    assert model[1].num_batches_tracked == 1


def test_patched_functions_are_put_back() -> None:
    call, grad = nn.Module.__call__, torch.is_grad_enabled()
    fast_path = torch.backends.mha.get_fastpath_enabled()
    for model in (Mutating(), Raising()):
        with suppress(CaptureError):
            capture(model, (torch.empty(2, 4),))
        assert nn.Module.__call__ is call
        assert torch.is_grad_enabled() == grad
        assert torch.backends.mha.get_fastpath_enabled() == fast_path
        assert torch.overrides._get_current_function_mode_stack() == []


def test_real_weights_are_never_computed_with() -> None:
    """A model much too wide to be run, built without data."""
    model = nn.Sequential(nn.Linear(10**6, 10**6, device="meta"), nn.ReLU())
    program = capture(model, (torch.empty(10**4, 10**6, device="meta"),))
    assert program.method == "meta"
    assert program.outputs[0].shape == (10**4, 10**6)


def test_parameters_that_are_plain_attributes_and_buffers_keep_their_names() -> None:
    model = Written(lambda m, x: x * m.scale + m.shift, scale=nn.Parameter(torch.ones(1)), shift=torch.ones(1))
    program = capture(model, (torch.empty(2, 4),))
    product, addition = program.operators
    assert (product.inputs[1].origin, product.inputs[1].name) == ("parameter", "scale")
    assert addition.inputs[1].origin == "constant"


@functools.lru_cache
def positions(length: int, device: torch.device) -> tuple[Tensor, ...]:
    return (torch.arange(length, device=device),)


def test_caches_of_functions_keep_no_tensors_without_data() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        longest = torch.full((2,), 3, device=x.device).max().item()
        return x + positions(longest, x.device)[0]

    model = Written(forward)
    assert capture(model, (torch.empty(2, 3),)).method == "fake"
    assert type(positions(3, torch.device("cpu"))[0]) is Tensor
    assert torch.equal(model(torch.ones(2, 3)), runnable(model, (torch.ones(2, 3),))(torch.ones(2, 3)))


def test_a_table_that_is_kept_is_made_in_every_trace() -> None:
    model = Written(lambda m, x: x + positions(x.shape[1], x.device)[0])
    captured = runnable(model, (torch.ones(2, 5),))
    assert torch.equal(captured(torch.ones(3, 7)), model(torch.ones(3, 7)))


class Table:
    """No module: makes its tensor when it is first asked."""

    made: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        if self.made is None:
            self.made = torch.arange(x.shape[1], device=x.device)
        return x + self.made


def test_objects_that_are_no_modules_are_the_same_afterwards() -> None:
    model = Written(lambda m, x: m.table(x))
    model.table = Table()
    capture(model, (torch.empty(2, 3),))
    assert model.table.made is None
    captured = runnable(model, (torch.ones(2, 3),))
    assert torch.equal(captured(torch.ones(2, 3)), model(torch.ones(2, 3)))


class Unregistered(nn.Module):
    """A parameter that is no `nn.Parameter`, and a buffer that is no tensor, put in by hand."""

    def __init__(self) -> None:
        super().__init__()
        self._parameters["weight"] = torch.ones(4, requires_grad=True)  # type: ignore[assignment]
        self._buffers["count"] = 5  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.weight).relu() + self.count


def test_what_is_registered_by_hand_is_lent_out_as_what_it_stands_for() -> None:
    model = Unregistered()
    before = state(model)
    program = capture(model, (torch.empty(2, 4),), train=True)
    assert state(model) == before
    assert program.saved, "the product keeps its input for the gradient of the parameter"
    assert "parameter" in {value.origin for operator in program.operators for value in operator.inputs}


def test_the_mode_of_torchscript_is_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(4, 4), torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.Dropout())))
    capture(model, (torch.empty(2, 4),))
    assert [module.training for module in model.modules()] == [True] * 5
