"""Batch norms behind factored layers: what they make keeps its mean and, on request, its variance."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from skipgraph import ConcatToSum
from skipgraph.compress.measured import run
from skipgraph.compress.recalibrate import recalibrate
from skipgraph.rewriting import planned
from tests.compress.test_compress import IMAGE, data, output_error
from tests.helpers.rerun import redrawn

if TYPE_CHECKING:
    from skipgraph.compress.data import Batch


class Normed(nn.Module):
    """A layer, its norm, which is used a second time with what it made, and another norm behind."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.layer, self.norm, self.last = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.calls = calls

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        for _ in range(self.calls):
            x = self.norm(x)
        return self.last(x.relu())


def batches(offset: float = 0.0) -> list[Batch]:
    return [((x + offset,), {}) for x in data()]


def made(model: Any, name: str, given: list[Batch]) -> Tensor:
    """What a module makes, call after call."""
    seen: list[Tensor] = []
    handle = model.get_submodule(name).register_forward_hook(lambda module, args, result: seen.append(result))
    for batch in given:
        run(model.eval(), batch)
    handle.remove()
    return torch.cat(seen)


@pytest.mark.parametrize("offset", [0.0, 5.0])
@pytest.mark.parametrize("scale", [False, True])
def test_a_norm_makes_what_it_made(scale: bool, offset: float) -> None:
    """Whatever the mean of the data is to the mean that the norm has."""
    torch.manual_seed(0)
    original = redrawn(Normed(1)).eval()
    changed = copy.deepcopy(original)
    with torch.no_grad():
        changed.layer.weight *= 0.5
        changed.layer.bias += 3.0
    assert recalibrate(changed, original, batches(offset), run, scale=scale) == 2
    for name in ("norm", "last"):
        ours, theirs = (made(one, name, batches(offset)) for one in (changed, original))
        torch.testing.assert_close(ours.mean((0, 2, 3)), theirs.mean((0, 2, 3)), rtol=1e-3, atol=1e-3)
        if scale:
            torch.testing.assert_close(ours.var((0, 2, 3)), theirs.var((0, 2, 3)), rtol=1e-2, atol=1e-4)
    norm = changed.norm
    assert (norm.momentum, norm.training) == (0.1, False)
    assert norm.num_batches_tracked == original.norm.num_batches_tracked
    assert scale or torch.equal(norm.running_var, original.norm.running_var)


@pytest.mark.parametrize("calls", [1, 2])
def test_what_reads_the_same_keeps_its_statistics(calls: int) -> None:
    torch.manual_seed(0)
    original = redrawn(Normed(calls)).eval()
    changed = copy.deepcopy(original)
    assert recalibrate(changed, original, batches(5.0), run) == 0
    assert all(torch.equal(a, b) for a, b in zip(changed.buffers(), original.buffers(), strict=True))


def test_it_is_done_where_it_helps() -> None:
    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(9, 4, 1)
            self.norm = nn.BatchNorm2d(4)
            self.last = nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.norm(self.b(torch.cat([x, self.a(x).relu()], 1))).relu())

    torch.manual_seed(0)
    original = redrawn(Joined()).eval()
    result = planned(original, IMAGE, ConcatToSum(rank=2), execution="separate", calibrate=data())
    error = output_error(result, original, data())
    state = {name: one.clone() for name, one in result.model.state_dict().items()}
    result.model.load_state_dict(
        {**state, **{name: one for name, one in original.state_dict().items() if "norm." in name}}
    )
    assert error <= output_error(result, original, data()) + 1e-6


def test_norms_that_are_no_modules_of_torch_are_told() -> None:
    class Active(nn.BatchNorm2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).relu()

    class Joined(nn.Module):
        def __init__(self, norm: nn.Module) -> None:
            super().__init__()
            self.a, self.b, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(9, 4, 1), norm

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.b(torch.cat([x, self.a(x).relu()], 1)))

    for norm, told in ((Active(4), True), (nn.BatchNorm2d(4), False)):
        model = redrawn(Joined(norm)).eval()
        compressed = planned(model, IMAGE, ConcatToSum(rank=2), execution="separate", calibrate=data()).compressed
        assert compressed is not None
        assert any("the statistics stay as they were" in note for note in compressed.notes) == told
