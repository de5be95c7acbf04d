"""Law 2 where channels are folded into heads, and heads into a batch: what works on each head alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from skipgraph.capture import runnable
from skipgraph.emit import alone_of
from skipgraph.emit.source import source
from skipgraph.passes import ConcatToSum
from skipgraph.rewriting import undo
from tests.helpers.rerun import redrawn
from tests.helpers.tracing import Written
from tests.laws.agreement import assert_agreement, done, reasons, rewritten
from tests.laws.drawing import LAW, branches, image

HEADS = st.lists(st.integers(1, 3), min_size=2, max_size=4)


def linear_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """``relu(q) (relu(k)ᵀ v)``, with the sums of the weights in another column (Cai et al., EfficientViT, 2023)."""
    weighted = F.relu(q) @ (F.relu(k).transpose(-1, -2) @ F.pad(v, (0, 1), value=1.0))
    return weighted[..., :-1] / (weighted[..., -1:] + 1.0)


ATTENTIONS: dict[str, Any] = {
    "linear": linear_attention,
    "products": lambda q, k, v: (q @ k.transpose(-1, -2)).tanh() @ v,
    "fused": F.scaled_dot_product_attention,
}


def attending(heads: list[int], size: int, attention: str, split: str) -> nn.Module:
    """Operands of whole heads, each with its q, k and v, as multi-scale attention joins them."""

    def forward(m: Any, x: Tensor) -> Tensor:
        joined = torch.cat([branch(x) for branch in m.branches], 1)
        batch, _, height, width = joined.shape
        folded = joined.reshape(batch, -1, 3 * size, height * width).transpose(-1, -2)
        q, k, v = folded.chunk(3, -1) if split == "chunk" else folded.split([size, size, size], dim=3)
        result = ATTENTIONS[attention](q, k, v)
        return m.last(result.transpose(-1, -2).reshape(batch, -1, height, width))  # type: ignore[no-any-return]

    operands = branches([3 * size * count for count in heads])
    return Written(forward, branches=operands, last=nn.Conv2d(size * sum(heads), 2, 1))


@LAW
@given(
    heads=HEADS, size=st.integers(1, 3), batch=st.integers(1, 2), attention=st.sampled_from(sorted(ATTENTIONS)),
    split=st.sampled_from(["chunk", "split"]),
)  # fmt: skip
def test_attention_over_heads_of_each_operand(
    heads: list[int], size: int, batch: int, attention: str, split: str
) -> None:
    """However many samples the heads are folded into a batch with."""
    model, inputs = attending(heads, size, attention, split), (image(3, 2, 3, batch),)
    result = rewritten(model, inputs, ConcatToSum(), only=("*",))
    assert done(result) == ["cat"], reasons(result)
    assert result.after.counts.concat == 0
    assert_agreement(model, result, inputs)


@LAW
@given(counts=HEADS, several=st.integers(2, 3), inner=st.booleans())
def test_neighbouring_channels_that_are_added_up(counts: list[int], several: int, inner: bool) -> None:
    """Channels that others see as pairs (Sun et al., FishNet, 2018); one of the operands may be a concat itself."""

    def forward(m: Any, x: Tensor) -> Tensor:
        parts = [branch(x) for branch in m.branches]
        if inner:
            parts = [torch.cat([parts[0], torch.tanh(parts[0])], 1), *parts[1:]]
        joined = torch.cat(parts, 1)
        batch, channels, height, width = joined.shape
        pairs = joined.view(batch, channels // several, several, height, width)
        return m.last(pairs.sum(2) * pairs.amax(2))  # type: ignore[no-any-return]

    total = sum(counts) + inner * counts[0]
    operands = branches([several * count for count in counts])
    model = Written(forward, branches=operands, last=nn.Conv2d(total, 2, 1))
    result = rewritten(model, (image(3),), ConcatToSum(), only=("*",))
    assert result.after.counts.concat == 0, reasons(result)
    assert_agreement(model, result, (image(3),))


def test_there_and_back_in_the_graph_and_by_way_of_a_source() -> None:
    torch.manual_seed(0)
    model = redrawn(attending([2, 1, 1], 4, "linear", "chunk")).double().eval()
    inputs = (image(3).double(),)
    result = rewritten(model, inputs, ConcatToSum())
    assert result.after.counts.concat == 0, reasons(result)
    alone = alone_of(source(result.model, result.inputs, title="It."), result.model, result.inputs)
    for again in (result.undo(), undo(runnable(alone, *result.inputs), result.plan)):
        calls = [node.target for node in again.graphs[False].nodes]
        assert [calls.count(one) for one in (torch.cat, "chunk", "last")] == [1, 1, 1]
        torch.testing.assert_close(again.eval()(*inputs), model(*inputs))


@pytest.mark.parametrize(("widths", "last"), [([6, 12], 6), ([9, 9], 6)])
def test_heads_of_two_operands_stay(widths: list[int], last: int) -> None:
    """With heads of nine channels a border at six, not at nine, is one within a head."""

    def forward(m: Any, x: Tensor) -> Tensor:
        joined = torch.cat([branch(x) for branch in m.branches], 1)
        q, k, v = joined.reshape(2, 2, 9, 36).transpose(-1, -2).chunk(3, -1)
        return m.last(ATTENTIONS["products"](q, k, v).transpose(-1, -2).reshape(2, 6, 6, 6))  # type: ignore[no-any-return]

    model = Written(forward, branches=branches(widths), last=nn.Conv2d(last, 2, 1))
    result = rewritten(model, (image(3),), ConcatToSum(), only=("*",))
    told = list(reasons(result).values())
    assert told == (["view rearranges the concatenated channels"] if widths == [6, 12] else [])
    assert_agreement(model, result, (image(3),))


def test_a_mask_for_all_heads_stays() -> None:
    """It may be one for each head; and heads and channels interleaved are no stretches."""

    def masked(m: Any, x: Tensor) -> Tensor:
        q = torch.cat([branch(x) for branch in m.branches], 1).reshape(2, 4, 2, 36).transpose(-1, -2)
        mask = m.mask(x).reshape(2, 1, 36, 36)
        result = F.scaled_dot_product_attention(q, q, q, attn_mask=mask)
        return m.last(result.transpose(-1, -2).reshape(2, 8, 6, 6))  # type: ignore[no-any-return]

    def interleaved(m: Any, x: Tensor) -> Tensor:
        q = torch.cat([branch(x) for branch in m.branches], 1).reshape(2, 4, 2, 36).transpose(1, 2)
        return m.last((q @ q.transpose(-1, -2) @ q).transpose(1, 2).reshape(2, 8, 6, 6)) + m.mask(x).mean()  # type: ignore[no-any-return]

    for forward, told in ((masked, "reads another tensor beside the concatenated channels"), (interleaved, "bmm")):
        model = Written(forward, branches=branches([4, 4]), last=nn.Conv2d(8, 2, 1), mask=nn.Conv2d(3, 36, 1))
        result = rewritten(model, (image(3),), ConcatToSum(), only=("*",))
        (reason,) = reasons(result).values()
        assert told in reason
        assert_agreement(model, result, (image(3),))


@pytest.mark.parametrize(("sizes", "kept"), [((-1, 2), False), ((4, 2), True), ((4, -1), True)])
def test_unflattening_by_sizes_of_all_operands(sizes: tuple[int, int], kept: bool) -> None:
    """A first size that is left open is that of each part as well."""

    def forward(m: Any, x: Tensor) -> Tensor:
        pairs = torch.cat([branch(x) for branch in m.branches], 1).unflatten(1, sizes)
        return m.last((pairs - pairs.mean(2, keepdim=True)).flatten(1, 2))  # type: ignore[no-any-return]

    model = Written(forward, branches=branches([2, 6]), last=nn.Conv2d(8, 2, 1))
    result = rewritten(model, (image(3),), ConcatToSum(), only=("*",))
    told = "unflatten (unflatten) folds the channels by sizes that are those of all operands"
    assert list(reasons(result).values()) == [told] * kept
    assert_agreement(model, result, (image(3),))


@pytest.mark.parametrize("several", [False, True])
def test_one_sample_tells_no_batch(several: bool) -> None:
    """Folded with one sample, heads and samples look like heads; the model takes several."""

    def forward(m: Any, x: Tensor) -> Tensor:
        y = torch.cat([branch(x) for branch in m.branches], 1)
        batch, _, height, width = y.shape
        q, k, v = y.view(size=(batch * 4 if several else -1, 6, height * width)).chunk(3, 1)
        return m.last((q @ k.transpose(1, 2) @ v).reshape(batch, 8, height, width))  # type: ignore[no-any-return]

    model = Written(forward, branches=branches([6, 18]), last=nn.Conv2d(8, 2, 1))
    result = rewritten(model, (image(3, batch=1),), ConcatToSum(), only=("*",))
    told = "view (view) folds the channels by sizes that are those of all operands"
    assert list(reasons(result).values()) == [told] * several
    torch.testing.assert_close(result.model.eval()(image(3) * 0 + 0.5), model.eval()(image(3) * 0 + 0.5))


@pytest.mark.parametrize(
    ("layer", "told"),
    [
        (nn.PReLU(2), "layer (layer) reads channels along axis 1, and theirs is 2"),
        (nn.PReLU(1), None),
        (nn.AvgPool2d(3, 1, 1), "layer (avg_pool2d) takes the concatenated channels for another axis"),
        (nn.MaxPool2d(3, 1, 1), "layer (max_pool) takes the concatenated channels for another axis"),
        (nn.BatchNorm2d(2), "layer (batch_norm) takes the concatenated channels for another axis"),
        (nn.Conv2d(2, 2, 1, groups=2), "layer (convolution) takes the concatenated channels for another axis"),
    ],
)
def test_what_takes_them_for_another_axis(layer: nn.Module, told: str | None) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = torch.cat([branch(x) for branch in m.branches], 1)
        folded = m.layer(y.reshape(-1, 4, 2, 36).transpose(1, 2)).transpose(1, 2)
        return m.last(folded.reshape(-1, 8, 6, 6))  # type: ignore[no-any-return]

    model = Written(forward, branches=branches([2, 6]), last=nn.Conv2d(8, 2, 1), layer=layer)
    result = rewritten(model, (image(3),), ConcatToSum(), only=("*",))
    assert list(reasons(result).values()) == ([] if told is None else [told])
    assert_agreement(model, result, (image(3),))
