"""What was evaluated once is not evaluated again, and what can be known is not evaluated at all."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from skipgraph.capture import capture
from skipgraph.capture.program import Program
from skipgraph.errors import CaptureError


class Seen(TorchDispatchMode):
    """Counts the operators that are run."""

    def __init__(self) -> None:
        super().__init__()
        self.run: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.run[str(func)] += 1
        return func(*args, **(kwargs or {}))


def run_by(model: torch.nn.Module, *shape: int) -> tuple[Program, Counter[str]]:
    with Seen() as seen:
        program = capture(model.eval(), (torch.empty(shape),))
    return program, seen.run


class Calls(torch.nn.Module):
    """Calls a function several times in a row."""

    def __init__(self, function: Any, times: int = 3) -> None:
        super().__init__()
        self.function, self.times = function, times

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(self.times):
            x = self.function(x)
        return x


def test_kernels_are_not_run_where_a_rule_knows() -> None:
    program, run = run_by(
        torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(inplace=True)), 1, 3, 5, 5
    )
    names = [operator.name for operator in program.operators]
    assert names[0] == "convolution"
    assert names[-2:] == ["native_batch_norm", "relu"]
    assert not [name for name in run if "convolution" in name or "batch_norm" in name or "relu" in name]


def test_a_kernel_is_run_once_for_the_same_shapes() -> None:
    program, run = run_by(Calls(torch.erf), 2, 3)
    assert [operator.name for operator in program.operators] == ["erf"] * 3
    assert run["aten.erf.default"] == 1


def test_what_is_written_in_place_is_evaluated_once_and_keeps_its_versions() -> None:
    program, run = run_by(Calls(lambda x: x.erf_()), 2, 3)
    assert run["aten.erf_.default"] == 1
    assert [operator.name for operator in program.operators] == ["erf"] * 3
    assert [operator.written.index for operator in program.operators if operator.written] == [
        operator.inputs[0].index for operator in program.operators
    ]
    assert len({value.index for operator in program.operators for value in operator.outputs}) == 3
    assert len({value.storage.index for operator in program.operators for value in operator.outputs}) == 1


@pytest.mark.parametrize("function", [lambda x: x.t_(), lambda x: x.unsqueeze_(0)], ids=["t_", "unsqueeze_"])
def test_what_changes_shape_in_place_is_run_each_time(function: Any) -> None:
    program, run = run_by(Calls(function), 3, 3)
    assert sum(run.values()) >= 3
    eager = torch.empty(3, 3)
    for _ in range(3):
        eager = function(eager)
    assert program.outputs[0].shape == eager.shape
    assert program.outputs[0].stride == eager.stride()


def test_storage_that_is_exchanged_is_exchanged_each_time() -> None:
    def exchanged(x: torch.Tensor) -> torch.Tensor:
        return torch.empty_like(x).set_(x.clone())

    program, _ = run_by(Calls(exchanged), 2, 3)
    clones = [operator for operator in program.operators if operator.name == "clone"]
    assert program.outputs[0].storage is clones[-1].outputs[0].storage


class CountsOnTheSide(torch.nn.Module):
    """Reads a number that it counted on the CPU, in place, beside the same on its own device."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        here = torch.zeros(2, device=x.device)
        there = torch.zeros(2, device="cpu")
        for _ in range(3):
            here.erf_()
            here.add_(1.0)
            there.erf_()
            there.add_(1.0)
        return x.repeat(int(there[0] * 4)) + here[0]


def test_what_is_on_the_cpu_is_computed_with_its_numbers() -> None:
    model = CountsOnTheSide()
    program, _ = run_by(model, 5)
    assert program.method == "meta"
    assert tuple(program.outputs[0].shape) == tuple(model(torch.empty(5)).shape)


def test_devices_that_are_mixed_without_need_of_numbers_stay_on_meta() -> None:
    program, run = run_by(Calls(lambda x: torch.cat([x, torch.zeros(2, 3, device="cpu")], 1), 1), 2, 3)
    assert program.method == "meta"
    assert not run["aten.cat.default"]


def written(x: torch.Tensor, write: Any) -> torch.Tensor:
    there = torch.zeros(5, device="cpu")
    write(there, x)
    return x if (there + there).max() > 0 else x.relu()


@pytest.mark.parametrize(
    "write",
    [
        lambda there, x: there.add_(x),
        lambda there, x: there.mul_(x).add_(1),
        lambda there, x: there.masked_fill_(x > 0, 1.0),
        lambda there, x: there.index_put_((torch.tensor([1]),), x[:1]),
        lambda there, x: there.fill_(x.sum()),
        lambda there, x: there[1:].add_(x[1:]),
        lambda there, x: torch.add(x, 1, out=there),
    ],
    ids=["add", "mul", "masked_fill", "index_put", "fill", "view", "out"],
)
def test_numbers_that_depend_on_the_input_are_never_made_up(write: Any) -> None:
    """Meta kernels leave what they write on the CPU as it was: a branch on it would be taken the wrong way."""
    with pytest.raises(CaptureError, match="depends on the data"):
        capture(Calls(lambda x: written(x, write), 1), (torch.rand(5),))


def test_numbers_that_are_picked_by_the_input_are_never_made_up() -> None:
    table = torch.arange(5)

    def forward(x: torch.Tensor) -> torch.Tensor:
        return x.repeat(int(table[x.argmax()[None]][0]) + 1)

    with pytest.raises(CaptureError, match="depends on the data"):
        capture(Calls(forward, 1), (torch.rand(5),))


class Halved(torch.Tensor):
    """A tensor that keeps another one inside, and runs operators on that."""

    inside: torch.Tensor

    @staticmethod
    def __new__(cls, inside: torch.Tensor) -> Halved:
        made = torch.Tensor._make_wrapper_subclass(cls, inside.shape, dtype=inside.dtype, device=inside.device)
        made.inside = inside
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        bare = [one.inside if isinstance(one, cls) else one for one in args]
        return cls(func(*bare, **(kwargs or {})))


def test_tensors_that_run_operators_their_own_way_are_let_to() -> None:
    program, _ = run_by(Calls(lambda x: (Halved(x) + 1).inside * 2, 1), 2, 3)
    assert program.method == "meta"
    assert [operator.name for operator in program.operators][-1] == "mul"


def test_no_rule_raises_where_the_kernel_does_not() -> None:
    program, _ = run_by(Calls(lambda x: torch.nn.functional.layer_norm(x.to(torch.float8_e4m3fn), (3,)), 1), 2, 3)
    assert program.method == "meta"


def test_what_a_kernel_refuses_is_refused() -> None:
    with pytest.raises(CaptureError):
        capture(Calls(lambda x: torch.cat([x, x], 4)), (torch.empty(2, 3),))
    with pytest.raises(CaptureError):
        capture(Calls(lambda x: x.add_(torch.ones(4, 2, 3))), (torch.empty(2, 3),))
