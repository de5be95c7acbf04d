"""Law 2: what works channel by channel works on each operand of a concat alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from skipgraph.passes import ConcatToSum
from tests.helpers.tracing import Written
from tests.laws.agreement import assert_agreement, done, reasons, rewritten
from tests.laws.drawing import CONVOLUTIONS, LAW, TRANSPOSED, branches, image


@dataclass(frozen=True)
class Between:
    """Something between a concat and a layer: a module that is made for a number of channels, and how it is used.

    ``make`` is also given the channels of the smallest group that no border of the operands falls into; ``widens`` by
    how much the operator multiplies the channels.
    """

    make: Callable[[int, int], nn.Module] = lambda channels, unit: nn.Identity()
    use: Callable[[Any, Tensor], Tensor] = lambda module, x: module(x)
    widens: int = 1
    ranks: tuple[int, ...] = (2,)


def grouped(channels: int, unit: int, outer: int = 1, **options: Any) -> nn.Module:
    groups = channels // unit
    return nn.Conv2d(channels, channels * outer, 3, padding=1, groups=groups, **options)


ANY = (1, 2, 3)
BETWEEN: dict[str, Between] = {
    "batch norm 1": Between(lambda channels, unit: nn.BatchNorm1d(channels), ranks=(1,)),
    "batch norm 2": Between(lambda channels, unit: nn.BatchNorm2d(channels)),
    "batch norm 3": Between(lambda channels, unit: nn.BatchNorm3d(channels, affine=False), ranks=(3,)),
    "batch norm without statistics": Between(
        lambda channels, unit: nn.BatchNorm2d(channels, track_running_stats=False)
    ),
    "cumulative batch norm": Between(lambda channels, unit: nn.BatchNorm2d(channels, momentum=None)),
    "batch norm as a function": Between(
        lambda channels, unit: nn.BatchNorm2d(channels),
        lambda norm, x: F.batch_norm(
            x, norm.running_mean, norm.running_var, norm.weight, norm.bias, training=norm.training
        ),
    ),
    "group norm": Between(lambda channels, unit: nn.GroupNorm(channels // unit, channels), ranks=ANY),
    "group norm as a function": Between(
        lambda channels, unit: nn.GroupNorm(channels // unit, channels),
        lambda norm, x: F.group_norm(x, norm.num_groups, norm.weight, norm.bias),
    ),
    "prelu": Between(lambda channels, unit: nn.PReLU(channels), ranks=ANY),
    "prelu with one slope": Between(lambda channels, unit: nn.PReLU(), ranks=ANY),
    "prelu as a function": Between(lambda channels, unit: nn.PReLU(channels), lambda act, x: F.prelu(x, act.weight)),
    "relu": Between(lambda channels, unit: nn.ReLU(), ranks=ANY),
    "relu in place": Between(lambda channels, unit: nn.ReLU(inplace=True), ranks=ANY),
    "relu as a method in place": Between(use=lambda module, x: x.relu_(), ranks=ANY),
    "elu as a function in place": Between(use=lambda module, x: F.elu(x, inplace=True), ranks=ANY),
    "gelu": Between(lambda channels, unit: nn.GELU(), ranks=ANY),
    "silu": Between(use=lambda module, x: F.silu(x), ranks=ANY),
    "hardtanh": Between(use=lambda module, x: F.hardtanh(x, -0.3, 0.3), ranks=ANY),
    "power": Between(use=lambda module, x: torch.sqrt(x * x + 1), ranks=ANY),
    "dropout": Between(lambda channels, unit: nn.Dropout(0.0), ranks=ANY),
    "dropout of channels": Between(lambda channels, unit: nn.Dropout2d(0.0)),
    "dropout as a function": Between(use=lambda module, x: F.dropout(x, 0.0, module.training), ranks=ANY),
    "max pooling": Between(lambda channels, unit: nn.MaxPool2d(3, 1, 1)),
    "average pooling": Between(use=lambda module, x: F.avg_pool2d(x, 2, 1, 1)),
    "adaptive pooling": Between(lambda channels, unit: nn.AdaptiveAvgPool2d(5)),
    "pooling of volumes": Between(lambda channels, unit: nn.AvgPool3d(3, 1, 1), ranks=(3,)),
    "nearest": Between(use=lambda module, x: F.interpolate(x, scale_factor=2)),
    "bilinear": Between(use=lambda module, x: F.interpolate(x, size=(7, 5), mode="bilinear", align_corners=True)),
    "upsampling": Between(lambda channels, unit: nn.Upsample(scale_factor=2, mode="bicubic")),
    "padding": Between(use=lambda module, x: F.pad(x, (1, 0, 2, 1))),
    "cropping": Between(use=lambda module, x: x[:, :, :4, :-1]),
    "every other row": Between(use=lambda module, x: x[:, :, ::2], ranks=ANY),
    "replication": Between(lambda channels, unit: nn.ReplicationPad2d(1)),
    "depthwise": Between(lambda channels, unit: nn.Conv2d(channels, channels, 3, padding=1, groups=channels)),
    "depthwise, widening": Between(
        lambda channels, unit: nn.Conv2d(channels, 2 * channels, 3, padding=1, groups=channels, bias=False), widens=2
    ),
    "grouped": Between(grouped),
    "grouped, widening": Between(lambda channels, unit: grouped(channels, unit, 2), widens=2),
    "grouped, reflecting": Between(lambda channels, unit: grouped(channels, unit, padding_mode="reflect")),
    "depthwise as a function": Between(
        lambda channels, unit: nn.Conv2d(channels, channels, 3, groups=channels),
        lambda layer, x: F.conv2d(x, layer.weight, layer.bias, padding=1, groups=layer.groups),
    ),
    "grouped, transposed": Between(
        lambda channels, unit: nn.ConvTranspose2d(channels, channels, 3, padding=1, groups=channels // unit)
    ),
    "depthwise of rank 1": Between(
        lambda channels, unit: nn.Conv1d(channels, channels, 3, padding=1, groups=channels), ranks=(1,)
    ),
    "a scale a channel": Between(
        lambda channels, unit: nn.ParameterList([torch.rand(channels, 1, 1)]), lambda scale, x: x * scale[0]
    ),
    "a shift": Between(
        lambda channels, unit: nn.ParameterList([torch.rand(1, channels, 1, 1)]), lambda shift, x: shift[0] - x
    ),
    "a gate": Between(
        lambda channels, unit: nn.Conv2d(channels, channels, 1), lambda gate, x: x * torch.sigmoid(gate(x))
    ),
    "a gate of channels": Between(
        lambda channels, unit: nn.Conv2d(channels, channels, 1),
        lambda gate, x: torch.sigmoid(gate(F.adaptive_avg_pool2d(x, 1))) * x,
    ),
    "a factor in place": Between(use=lambda module, x: x.mul_(2.0), ranks=ANY),
    "a plain number": Between(use=lambda module, x: 1 - x, ranks=ANY),
}

ENDS: dict[str, Between] = {
    "convolution": Between(lambda channels, unit: nn.Conv2d(channels, 3, 1)),
    "convolution of rank 1": Between(lambda channels, unit: CONVOLUTIONS[1](channels, 3, 1), ranks=(1,)),
    "convolution of rank 3": Between(lambda channels, unit: CONVOLUTIONS[3](channels, 3, 1), ranks=(3,)),
    "transposed convolution": Between(lambda channels, unit: TRANSPOSED[2](channels, 3, 2, 2)),
    "channels last": Between(
        lambda channels, unit: nn.Linear(channels, 3), lambda layer, x: layer(F.gelu(x.permute(0, 2, 3, 1)))
    ),
    "tokens": Between(
        lambda channels, unit: nn.Linear(channels, 3),
        lambda layer, x: layer(x.flatten(2).transpose(1, 2)),
        ranks=(2, 3),
    ),
    "mean over space": Between(lambda channels, unit: nn.Linear(channels, 3), lambda layer, x: layer(x.mean((2, 3)))),
    "global pooling": Between(
        lambda channels, unit: nn.Linear(channels, 3), lambda layer, x: layer(F.adaptive_avg_pool2d(x, 1).flatten(1))
    ),
    "flattening": Between(
        lambda channels, unit: nn.Linear(4 * channels, 3),
        lambda layer, x: layer(torch.flatten(F.adaptive_max_pool2d(x, 2), 1)),
    ),
    "viewing": Between(
        lambda channels, unit: nn.Linear(4 * channels, 3),
        lambda layer, x: layer(F.adaptive_avg_pool2d(x, 2).view(x.shape[0], -1)),
    ),
}


def check(names: list[str], end: str, widths: list[int], rank: int, unit: int, *, early: bool, late: bool) -> None:
    """The concat of ``widths``, what ``names`` say, and a layer.

    With ``early`` another layer reads the concat before all that, with ``late`` all operands are read again afterwards,
    when what works in place has written over what it reads.
    """
    modules, channels, group = [], sum(widths), unit
    for name in names:
        modules.append(BETWEEN[name].make(channels, group))
        channels, group = channels * BETWEEN[name].widens, group * BETWEEN[name].widens
    last = ENDS[end].make(channels, group)

    def forward(self: Any, x: Tensor) -> list[Tensor]:
        operands = [torch.tanh(branch(x)) for branch in self.branches]
        both = torch.cat(operands, 1)
        results = [self.early(both)] if early else []
        for name, module in zip(names, self.between, strict=True):
            both = BETWEEN[name].use(module, both)
        results.append(ENDS[end].use(self.last, both))
        if late:
            results += [self.late(operand[:, :1]) for operand in operands]
        return results

    model = Written(
        forward,
        branches=branches(widths, rank),
        between=modules,
        last=last,
        early=CONVOLUTIONS[rank](sum(widths), 2, 1),
        late=CONVOLUTIONS[rank](1, 2, 1),
    )
    inputs = (image(3, rank, 8),)
    result = rewritten(model, inputs, ConcatToSum(), only=("*",))
    assert done(result), reasons(result)
    assert result.after.counts.concat == 0
    assert_agreement(model, result, inputs)


@pytest.mark.parametrize("name", BETWEEN)
def test_each_operator(name: str) -> None:
    rank = BETWEEN[name].ranks[0] if 2 not in BETWEEN[name].ranks else 2
    end = {1: "convolution of rank 1", 2: "convolution", 3: "convolution of rank 3"}[rank]
    check([name], end, [2, 4, 2], rank, 2, early="in place" not in name, late=True)


@pytest.mark.parametrize("end", ENDS)
def test_each_layer(end: str) -> None:
    check(["relu in place"], end, [2, 3], ENDS[end].ranks[0], 1, early=False, late=True)


@pytest.mark.parametrize("options", [{}, {"affine": True}, {"affine": True, "track_running_stats": True}])
def test_instance_norms(options: dict[str, bool]) -> None:
    """Of one sample: a batch of them is normalised through a view that puts samples and channels together."""

    def forward(self: Any, x: Tensor) -> Tensor:
        return self.last(self.norm(torch.cat([x, self.a(x)], 1)))  # type: ignore[no-any-return]

    model = Written(forward, a=nn.Conv2d(3, 4, 1), norm=nn.InstanceNorm2d(7, **options), last=nn.Conv2d(7, 2, 1))
    inputs = (image(3, batch=1),)
    result = rewritten(model, inputs, ConcatToSum(), only=("*",))
    assert done(result), reasons(result)
    assert_agreement(model, result, inputs)


@LAW
@given(
    widths=st.lists(st.integers(1, 4), min_size=2, max_size=4),
    name=st.sampled_from(["add", "sub", "mul", "div"]), left=st.booleans(),
    shape=st.sampled_from(["full", "pixel", "row"]),
)  # fmt: skip
def test_another_tensor(widths: list[int], name: str, left: bool, shape: str) -> None:
    """It is cut as the channels are, unless it is broadcast along them."""
    assume(not (name == "div" and left and shape == "row"))

    def forward(self: Any, x: Tensor) -> Tensor:
        joined = torch.cat([branch(x) for branch in self.branches], 1)
        other = torch.exp(self.other(x) if shape == "full" else x[:, :1] if shape == "pixel" else self.row)
        function = getattr(torch, name)
        return self.last(function(other, torch.exp(joined)) if left else function(joined, other))  # type: ignore[no-any-return]

    members = {"other": nn.Conv2d(3, sum(widths), 1), "row": nn.Parameter(torch.rand(sum(widths), 1, 1))}
    model = Written(forward, branches=branches(widths), last=nn.Conv2d(sum(widths), 2, 1), **members)
    inputs = (image(3),)
    result = rewritten(model, inputs, ConcatToSum(), only=("*",))
    assert done(result), reasons(result)
    assert_agreement(model, result, inputs)


@LAW
@given(data=st.data())
def test_chains(data: st.DataObject) -> None:
    rank = data.draw(st.sampled_from([2, 2, 2, 1, 3]))
    unit = data.draw(st.integers(1, 3))
    widths = [unit * number for number in data.draw(st.lists(st.integers(1, 3), min_size=2, max_size=4))]
    fitting = [name for name, between in BETWEEN.items() if rank in between.ranks]
    # What works in place comes first: autograd refuses it behind what needs its own result for the gradient.
    first = data.draw(st.sampled_from(fitting))
    others = [name for name in fitting if "in place" not in name]
    names = [first, *data.draw(st.lists(st.sampled_from(others), max_size=3))]
    end = data.draw(st.sampled_from([name for name, between in ENDS.items() if rank in between.ranks]))
    early = "in place" not in first and data.draw(st.booleans())
    check(names, end, widths, rank, unit, early=early, late=data.draw(st.booleans()))


@LAW
@given(widths=st.lists(st.integers(1, 4), min_size=2, max_size=4), groups=st.integers(2, 4), norm=st.booleans())
def test_borders_of_groups(widths: list[int], groups: int, norm: bool) -> None:
    """Groups that no border of the operands falls into are passed, all others are refused."""
    widths[-1] += -sum(widths) % groups
    size = sum(widths) // groups
    layer = nn.GroupNorm(groups, sum(widths)) if norm else nn.Conv2d(sum(widths), sum(widths), 1, groups=groups)

    def forward(self: Any, x: Tensor) -> Tensor:
        return self.last(self.layer(torch.cat([branch(x) for branch in self.branches], 1)))  # type: ignore[no-any-return]

    model = Written(forward, branches=branches(widths), layer=layer, last=nn.Conv2d(sum(widths), 2, 1))
    inputs = (image(3),)
    result = rewritten(model, inputs, ConcatToSum(), only=("*",))
    borders = [sum(widths[:place]) for place in range(1, len(widths))]
    straddled = next((border for border in borders if border % size), None)
    if straddled is None:
        assert done(result), reasons(result)
        assert_agreement(model, result, inputs)
    else:
        told = f"a group of {size} channels of layer straddles the boundary at channel {straddled}"
        assert reasons(result) == {"cat": told}
