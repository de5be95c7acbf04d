"""Laws 2 and 3 where a layer is called several times, or has a weight that another has as well: slices of that one."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from skipgraph.capture import runnable
from skipgraph.emit import alone_of
from skipgraph.emit.source import source
from skipgraph.passes import ConcatToSum
from skipgraph.rewriting import undo
from tests.helpers.tracing import Written
from tests.laws.agreement import assert_agreement, done, reasons, rewritten
from tests.laws.drawing import CONVOLUTIONS, LAW, TRANSPOSED, branches, image

WIDTH = 6


def _layer(kind: str, rank: int, bias: bool) -> nn.Module:
    if kind == "transposed":
        return TRANSPOSED[rank](WIDTH, 3, 2, stride=2, output_padding=1, padding=1, bias=bias)  # type: ignore[no-any-return]
    return CONVOLUTIONS[rank](WIDTH, 3, 3, padding="same" if kind == "same" else 1, dilation=2, bias=bias)  # type: ignore[no-any-return]


@LAW
@given(
    kind=st.sampled_from(["same", "convolution", "transposed"]),
    rank=st.integers(1, 3),
    bias=st.booleans(),
    cuts=st.lists(st.integers(1, WIDTH - 1), min_size=1, max_size=3),
)
def test_a_layer_that_is_called_for_several_concats(kind: str, rank: int, bias: bool, cuts: list[int]) -> None:
    """Each call at the borders of its own concat, one of them on no concat at all."""

    def forward(m: Any, x: Tensor) -> Any:
        inner = [torch.tanh(branch(x)) for branch in m.branches]
        joined = [torch.cat(inner[place : place + 2], 1) for place in range(0, len(inner), 2)]
        return [m.layer(one) for one in (*joined, m.wide(x))]

    widths = [width for cut in cuts for width in (cut, WIDTH - cut)]
    model = Written(
        forward, branches=branches(widths, rank), layer=_layer(kind, rank, bias), wide=CONVOLUTIONS[rank](3, WIDTH, 1)
    )
    result = rewritten(model, (image(3, rank),), ConcatToSum(), only=("*",))
    assert len(done(result)) == len(cuts), reasons(result)
    assert result.after.counts.concat == 0
    assert list(result.model.state_dict()) == list(model.state_dict())
    assert_agreement(model, result, (image(3, rank),))


def _recurrent(m: Any, x: Tensor) -> Tensor:
    """One block for several scales, as refinements and gated units have it: slopes, norm and layer are shared."""
    h = torch.tanh(m.stem(x))
    for _ in range(3):
        h = torch.tanh(m.layer(m.norm(m.slopes(torch.cat([h, m.new(h)], 1)))))
    return m.last(h)  # type: ignore[no-any-return]


def recurrent(layer: nn.Module | None = None, norm: nn.Module | None = None) -> nn.Module:
    torch.manual_seed(0)
    return Written(
        _recurrent, stem=nn.Conv2d(3, 4, 1), new=nn.Conv2d(4, 2, 1), slopes=nn.PReLU(6),
        norm=norm or nn.GroupNorm(3, 6), layer=layer or nn.Conv2d(6, 4, 3, padding=1), last=nn.Conv2d(4, 2, 1),
    )  # fmt: skip


def test_there_and_back_in_the_graph_and_by_way_of_a_source() -> None:
    """In a source each layer's weight is one, whose slices belong to the call that adds them up."""
    model = recurrent()
    result = rewritten(model, (image(3),), ConcatToSum())
    assert done(result) == ["cat", "cat_1", "cat_2"]
    assert_agreement(model, result, (image(3),))
    alone = alone_of(source(result.model, result.inputs, title="It."), result.model, result.inputs)
    for again in (result.undo(), undo(runnable(alone, *result.inputs), result.plan)):
        calls = [node.target for node in again.graphs[False].nodes if node.op == "call_module"]
        assert [calls.count(name) for name in ("slopes", "norm", "layer")] == [3, 3, 3]
        result.model = again
        assert_agreement(model, copy.copy(result), (image(3),))


def test_what_a_layer_does_beside_its_function_is_not_left_out() -> None:
    """Padding by reflection, and statistics that each call adds to: those layers stay."""
    for members in (
        {"layer": nn.Conv2d(6, 4, 3, padding=1, padding_mode="reflect")},
        {"norm": nn.BatchNorm2d(6)},
        {"layer": nn.ConvTranspose2d(6, 4, 3, padding=1)},
    ):
        model = recurrent(**members)
        result = rewritten(model, (image(3),), ConcatToSum(), only=("*",))
        name = next(iter(members))
        told = {f"{name} is called 3 times, with one and the same weight"}
        assert set(reasons(result).values()) == (set() if isinstance(members[name], nn.ConvTranspose2d) else told)
        assert_agreement(model, result, (image(3),))


@pytest.mark.parametrize("both", [True, False])
def test_a_weight_that_two_layers_have(both: bool) -> None:
    """Whether one of them reads a concat or each does."""

    def forward(m: Any, x: Tensor) -> Tensor:
        a, b = (torch.tanh(branch(x)) for branch in m.branches)
        whole = torch.cat([a, b], 1)
        other = torch.cat([b, a], 1) if both else m.wide(x)
        return m.first(whole) - m.second(torch.sin(other))  # type: ignore[no-any-return]

    first, second = nn.Conv2d(WIDTH, 3, 1), nn.Conv2d(WIDTH, 3, 1)
    second.weight = first.weight
    model = Written(forward, branches=branches([4, 2]), first=first, second=second, wide=nn.Conv2d(3, WIDTH, 1))
    result = rewritten(model, (image(3),), ConcatToSum(), only=("*",))
    assert len(done(result)) == 1 + both, reasons(result)
    assert result.model.first.weight is result.model.second.weight  # type: ignore[union-attr]
    assert_agreement(model, result, (image(3),))


def _gated(m: Any, x: Tensor) -> Tensor:
    """A convolutional GRU (RAFT's): a gate reads its concat in every step, and joins what the candidate joins too."""
    h = torch.tanh(m.stem(x))
    for _ in range(2):
        given = torch.cat([torch.relu(m.context(x)), m.motion(h)], 1)
        joined = torch.cat([h, given], 1)
        z, r = torch.sigmoid(m.z(joined)), torch.sigmoid(m.r(joined))
        h = (1 - z) * h + z * torch.tanh(m.q(torch.cat([r * h, given], 1)))
    return m.last(h)  # type: ignore[no-any-return]


def test_concats_of_gates_go_with_those_of_skips() -> None:
    torch.manual_seed(0)
    model = Written(
        _gated, stem=nn.Conv2d(3, 4, 1), context=nn.Conv2d(3, 3, 1), motion=nn.Conv2d(4, 2, 1), z=nn.Conv2d(9, 4, 1),
        r=nn.Conv2d(9, 4, 1), q=nn.Conv2d(9, 4, 1), last=nn.Conv2d(4, 2, 1),
    )  # fmt: skip
    result = rewritten(model, (image(3),), ConcatToSum())
    assert reasons(result) == {}
    assert not any(node.target is torch.cat for node in result.model.graphs[False].nodes)
    assert_agreement(model, result, (image(3),))
    alone = alone_of(source(result.model, result.inputs, title="It."), result.model, result.inputs)
    for again in (result.undo(), undo(runnable(alone, *result.inputs), result.plan)):
        assert sum(node.target is torch.cat for node in again.graphs[False].nodes) == 6
        result.model = again
        assert_agreement(model, copy.copy(result), (image(3),))
