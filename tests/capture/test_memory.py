"""Values, views, versions and storages, on examples that can be followed by hand."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipgraph.capture import capture
from skipgraph.capture.program import Program, Storage
from tests.helpers.tracing import Written

FLOATS = 4  # bytes
X = 6 * FLOATS


def x() -> Tensor:
    return torch.empty(2, 3, device="meta")


def lives(program: Program) -> list[tuple[int, int, int]]:
    """When each storage was born and freed, and its bytes; what is returned goes last, after all operators."""
    last = len(program.operators)
    return [(s.born, last if s.died is None else s.died, s.nbytes) for s in program.storages if s.origin == "operator"]


def storage_of(program: Program, number: int) -> Storage:
    return program.operators[number].outputs[0].storage


def test_born_by_their_operator_and_freed_when_nobody_refers_to_them() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        a = x.sin()  # 0
        b = a.cos()  # 1
        a = None
        c = b.tan()  # 2
        b = c.exp()  # 3: frees the old b once it has run
        return b + c  # 4

    program = capture(Written(forward), (x(),))
    assert [operator.name for operator in program.operators] == ["sin", "cos", "tan", "exp", "add"]
    assert lives(program) == [(0, 2, X), (1, 4, X), (2, 5, X), (3, 5, X), (4, 5, X)]


def test_what_the_caller_holds_outlives_the_forward() -> None:
    program = capture(nn.Linear(3, 3, device="meta"), (x(),))
    (given,) = program.inputs
    assert (given.storage.born, given.storage.origin, given.nbytes) == (-1, "input", X)
    parameters = {storage.nbytes for storage in program.storages if storage.origin == "parameter"}
    assert parameters == {9 * FLOATS, 3 * FLOATS}
    assert program.outputs[0].storage.died in (None, len(program.operators))


def test_a_callers_frame_holds_what_it_passed_on() -> None:
    """Sequential rebinds its variable, a block with a shortcut keeps the tensor until its sum."""

    def forward(m: Any, x: Tensor) -> Tensor:
        h = x.sin()  # 0
        return h + m.body(h)  # 1: tanh, 2: tanh, 3: add

    program = capture(Written(forward, body=nn.Sequential(nn.Tanh(), nn.Tanh())), (x(),))
    assert storage_of(program, 0).died == 4
    assert storage_of(program, 1).died == 3


def test_views_share_storage_and_copies_do_not() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        h = x.sin()
        return h.view(6)[2:4].clone().reshape(2, 1)

    program = capture(Written(forward), (x(),))
    sin, view, part, copy, shaped = program.operators
    assert [operator.is_view for operator in program.operators] == [False, True, True, False, True]
    assert sin.outputs[0].storage is view.outputs[0].storage is part.outputs[0].storage
    assert copy.outputs[0].storage is shaped.outputs[0].storage is not sin.outputs[0].storage
    assert (part.outputs[0].offset, part.outputs[0].shape, part.outputs[0].nbytes) == (2, (2,), 2 * FLOATS)


def test_writes_in_place_make_versions() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        h = x.sin()
        h.add_(x)
        return h.cos()

    program = capture(Written(forward), (x(),))
    sin, add, cos = program.operators
    assert add.name == "add"
    assert add.written is sin.outputs[0]
    assert add.outputs[0] is not sin.outputs[0]
    assert add.outputs[0].storage is sin.outputs[0].storage
    assert cos.inputs == [add.outputs[0]]
    assert lives(program) == [(0, 3, X), (2, 3, X)]


def test_a_write_through_a_view_makes_versions_of_the_aliases_that_it_overlaps() -> None:
    def forward(m: Any, x: Tensor) -> tuple[Tensor, ...]:
        h = x.sin()
        left, right = h[:, :1], h[:, 1:]
        left.mul_(2.0)
        return right.cos(), h.tan()

    program = capture(Written(forward), (x(),))
    by_name = {operator.name: operator for operator in program.operators}
    (right,) = by_name["cos"].inputs
    assert right.producer is not None
    assert right.producer.name == "slice"  # untouched by the write
    (whole,) = by_name["tan"].inputs
    assert whole.producer is not None
    assert whole.producer.name == "alias_with_write"
    assert whole.producer.inputs == [by_name["sin"].outputs[0], by_name["mul"].outputs[0]]


def test_outputs_of_functions_with_an_out_argument() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        room = torch.empty_like(x)
        torch.sin(x, out=room)
        return room.cos()

    program = capture(Written(forward), (x(),))
    sin = next(operator for operator in program.operators if operator.name == "sin")
    assert program.operators[-1].inputs == [sin.outputs[0]]


def test_saved_tensors_are_those_of_autograd() -> None:
    model = nn.Sequential(nn.Linear(3, 3, device="meta"), nn.Sigmoid())
    program = capture(model, (x(),), train=True)
    assert program.saved is not None
    saved = {value.producer.name if value.producer else value.origin for value in program.saved}
    assert saved == {"input", "sigmoid"}
    assert capture(model, (x(),)).saved is None


def test_composites_hold_their_operators_together() -> None:
    program = capture(
        Written(lambda m, q: F.scaled_dot_product_attention(q, q, q)), (torch.empty(2, 4, 8, device="meta"),)
    )
    (composite,) = {operator.composite for operator in program.operators}
    assert composite is not None
    assert composite.name == "scaled_dot_product_attention"
    assert len(composite.inputs) == 3
    assert composite.outputs == program.outputs


def test_the_first_forward_of_a_process_keeps_no_more_than_the_second() -> None:
    code = """
import torch, skipgraph
from torch import nn
layers = [layer for _ in range(4) for layer in (nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())]
peaks = [skipgraph.trace(nn.Sequential(*layers), torch.empty(1, 8, 64, 64)).cost.peak_bytes for _ in range(2)]
print(*peaks)
"""
    first, second = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert first == second
