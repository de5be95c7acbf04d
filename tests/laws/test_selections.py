"""Law 3 for selections by index: a sum of what is selected of each operand, whatever the index holds."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from skipgraph.capture import runnable
from skipgraph.emit import alone_of
from skipgraph.emit.source import source
from skipgraph.passes import ConcatToSum
from skipgraph.rewriting import undo
from tests.helpers.rerun import redrawn
from tests.helpers.tracing import Written
from tests.laws.agreement import assert_agreement, done, reasons, rewritten
from tests.laws.drawing import CONVOLUTIONS, LAW, WIDTHS, branches, image

CALLS: dict[str, Any] = {
    "function": lambda x, index: torch.index_select(x, 1, index),
    "named": lambda x, index: torch.index_select(x, dim=1, index=index),
    "method": lambda x, index: x.index_select(1, index),
    "from behind": lambda x, index: x.index_select(1 - x.dim(), index),
}


class Selecting(nn.Module):
    """A layer of a condensed network (Huang et al., CondenseNet, CVPR 2018): groups read what they chose."""

    def __init__(self, channels: int, made: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.convolution = nn.Conv2d(channels, made, 3, padding=1, groups=groups, bias=False)
        self.index: Tensor
        self.register_buffer("index", torch.randint(channels, (channels,)))

    def forward(self, x: Tensor) -> Tensor:
        return self.convolution(self.relu(self.norm(torch.index_select(x, 1, self.index))))  # type: ignore[no-any-return]


class Condensed(nn.Module):
    """A dense block of such layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.layers = nn.ModuleList([Selecting(8, 4, 2), Selecting(12, 4, 2), Selecting(16, 4, 4)])
        self.last = nn.Conv2d(20, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return self.last(x)  # type: ignore[no-any-return]


@LAW
@given(
    rank=st.integers(1, 3), widths=WIDTHS, many=st.integers(1, 9), call=st.sampled_from(sorted(CALLS)),
    dtype=st.sampled_from([torch.int32, torch.int64]), seed=st.integers(0, 99),
)  # fmt: skip
def test_any_index(rank: int, widths: list[int], many: int, call: str, dtype: torch.dtype, seed: int) -> None:
    """Of channels that stand in it several times, or not at all, so that nothing may be left of an operand."""

    def forward(m: Any, x: Tensor) -> Tensor:
        both = torch.cat([branch(x) for branch in m.branches], 1)
        return m.layer(CALLS[call](torch.tanh(both), m.index)) ** 2  # type: ignore[no-any-return]

    index = torch.randint(sum(widths), (many,), generator=torch.Generator().manual_seed(seed)).to(dtype)
    layer = CONVOLUTIONS[rank](many, 2 * many, 3, padding=1, groups=many)
    model = Written(forward, branches=branches(widths, rank), layer=layer, index=index)
    result = rewritten(model, (image(3, rank, 4),), ConcatToSum(), only=("*",))
    assert done(result) == ["cat"], reasons(result)
    assert result.after.counts.concat == 0
    assert_agreement(model, result, (image(3, rank, 4),))


def test_dense_blocks_of_selecting_layers() -> None:
    """Along the last axis too, where features are, and the index of another state dict is another selection."""
    torch.manual_seed(0)
    model = Condensed()
    result = rewritten(model, (image(3),), ConcatToSum(), only=("*",))
    assert done(result) == ["cat", "cat_1", "cat_2"], reasons(result)
    for layer in model.layers:
        layer.index.random_(len(layer.index))  # type: ignore[union-attr, operator, arg-type]
    assert_agreement(model, result, (image(3),))


def test_features_along_the_last_axis() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        both = torch.cat([first(x) for first in m.firsts], -1)
        return m.last(both.index_select(-1, m.index).relu())  # type: ignore[no-any-return]

    index = torch.tensor([5, 0, 1, 1, 4])
    model = Written(forward, firsts=[nn.Linear(3, 2), nn.Linear(3, 4)], last=nn.Linear(5, 2), index=index)
    result = rewritten(model, (torch.rand(2, 7, 3),), ConcatToSum(), only=("*",))
    assert done(result) == ["cat"], reasons(result)
    assert_agreement(model, result, (torch.rand(2, 7, 3),))


def test_what_is_not_selected_is_not_read() -> None:
    """Infinities of channels that nobody selects stay out: they are not multiplied by zeros."""

    def forward(m: Any, x: Tensor) -> Tensor:
        return m.last(torch.cat([x, 1 / x], 1).index_select(1, m.index))  # type: ignore[no-any-return]

    model = Written(forward, last=nn.Conv2d(3, 2, 1), index=torch.tensor([3, 0, 1]))
    x = torch.tensor([0.0, 2.0]).reshape(1, 2, 1, 1)
    result = rewritten(model, (x,), ConcatToSum(), only=("*",))
    assert done(result) == ["cat"], reasons(result)
    assert result.model.eval()(x).isfinite().all()
    torch.testing.assert_close(result.model(x), model(x))


def test_there_and_back_in_the_graph_and_by_way_of_a_source() -> None:
    torch.manual_seed(0)
    model = redrawn(Condensed()).double().eval()
    inputs = (image(3).double(),)
    result = rewritten(model, inputs, ConcatToSum())
    alone = alone_of(source(result.model, result.inputs, title="It."), result.model, result.inputs)
    for again in (result.undo(), undo(runnable(alone, *result.inputs), result.plan)):
        calls = [node.target for node in again.graphs[False].nodes if node.op == "call_function"]
        assert [calls.count(function) for function in (torch.index_select, torch.cat)] == [3, 3]
        assert not {torch.remainder, nn.functional.pad} & {*calls}
        assert again.state_dict().keys() == model.state_dict().keys()
        torch.testing.assert_close(again.eval()(*inputs), model(*inputs))


def test_an_index_that_follows_from_the_data() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        both = torch.cat([branch(x) for branch in m.branches], 1)
        return m.last(both.index_select(1, x[0, 0, 0, :].argsort()))  # type: ignore[no-any-return]

    model = Written(forward, branches=branches([4, 2]), last=nn.Conv2d(6, 2, 1))
    result = rewritten(model, (image(3),), ConcatToSum(), only=("*",))
    assert done(result) == ["cat"], reasons(result)
    assert_agreement(model, result, (image(3),))


def test_a_selection_of_positions_is_none_of_channels() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        both = torch.cat([branch(x) for branch in m.branches], 1)
        return m.last(both.index_select(2, m.index))  # type: ignore[no-any-return]

    model = Written(forward, branches=branches([4, 2]), last=nn.Conv2d(6, 2, 1), index=torch.tensor([1, 0]))
    result = rewritten(model, (image(3),), ConcatToSum(), only=("*",))
    assert not done(result)
    assert "index_select" in reasons(result)["cat"]


def test_a_selection_into_a_given_tensor_stays() -> None:
    """Others may have views of that one."""

    def forward(m: Any, x: Tensor) -> Tensor:
        joined = torch.cat([branch(x) for branch in m.branches], 1).detach()
        given = x.new_full((len(x), 4, 6, 6), 7.0)
        view = given.view(len(x), 4, 36)
        torch.index_select(joined, 1, m.index, out=given)
        return m.last(view.view(len(x), 4, 6, 6) * 2)  # type: ignore[no-any-return]

    model = Written(forward, branches=branches([2, 4]), last=nn.Conv2d(4, 2, 1), index=torch.tensor([5, 0, 1, 1]))
    result = rewritten(model, (image(3),), ConcatToSum(), only=("*",))
    assert not done(result)
    assert_agreement(model, result, (image(3),))


def test_back_from_an_operand_of_no_channels() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        first, last = (branch(x) for branch in m.branches)
        return m.last(torch.cat([first, x[:, :0], last], 1).index_select(1, m.index))  # type: ignore[no-any-return]

    model = Written(forward, branches=branches([2, 4]), last=nn.Conv2d(4, 2, 1), index=torch.tensor([5, 0, 1, 1]))
    result = rewritten(model, (image(3),), ConcatToSum(), only=("*",))
    assert done(result) == ["cat"], reasons(result)
    assert_agreement(model, result, (image(3),))
    x = image(3)
    torch.testing.assert_close(result.undo().eval()(x), model.eval()(x))
