"""One small module a clause of the definitions, on either side of it: what is a skip, and what only looks like one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.helpers.tracing import Written, block, conv, detected, image, tokens

SKIP = "short identity add"
META = {"device": "meta"}


@dataclass(frozen=True)
class Clause:
    """``skips``: span, shortcut and kind of every skip that must be found, concats with their edges."""

    reason: str
    forward: Callable[..., Any]
    members: Callable[[], dict[str, Any]]
    skips: tuple[str, ...] = ()
    inputs: Callable[[], tuple[Tensor, ...]] = lambda: (image(),)
    wrong: str = ""  # what the detector does instead, as long as it does


def described(graph: Any) -> tuple[str, ...]:
    words = []
    for merge in graph.merges:
        if merge.kind == "concat" and merge.skips:
            words.append(f"{merge.span} {merge.shortcut} concat {sum(skip.edges for skip in merge.skips)}")
        else:
            words += [f"{skip.span} {skip.shortcut} {skip.kind}" for skip in merge.skips]
    return tuple(sorted(words))


def linear(features: int = 8, width: int | None = None) -> nn.Linear:
    return nn.Linear(features, width or features, device="meta")


def halved(m: Any, x: Tensor) -> Tensor:
    """Down, through layers, up again."""
    return F.interpolate(m.f(m.down(x)), scale_factor=2.0)


def chain(m: Any, x: Tensor, number: int = 2) -> Tensor:
    for body in m.bodies[:number]:
        x = x + body(x)
    return x


CONDITIONS = [
    Clause("1: a residual bypasses two layers", lambda m, x: x + m.f(x), lambda: {"f": block()}, (SKIP,)),
    Clause("1: two branches of equal depth", lambda m, x: m.f(x) + m.g(x), lambda: {"f": block(), "g": block()}),
    Clause("1: nothing is bypassed where no layer lies between", lambda m, x: x + torch.tanh(x), dict),
    Clause(
        "1: the heaviest path counts, not the shortest",
        lambda m, x: torch.cat([m.f(x), m.g(x) + x], 1),
        lambda: {"f": block(), "g": block(depth=1)},
        (SKIP,),
    ),
    Clause(
        "1: the heaviest path of the stem counts too, where a lighter one reaches its source first",
        lambda m, x: (lambda t: torch.cat([torch.relu(t), t + m.g(x)], 1))(m.f(x) + x),
        lambda: {"f": nn.Sequential(conv(), conv()), "g": conv()},
        (SKIP,),
    ),
    Clause(
        "2: a bilinear product on the way is no bypass",
        lambda m, x: m.f(x) * m.g(x) + m.h(m.h2(x)),
        lambda: {"f": conv(), "g": conv(), "h": block(), "h2": block()},
    ),
    Clause(
        "3: halves of one tensor are two sources",
        lambda m, x: torch.cat([x[:, :4], m.f(x[:, 4:])], 1),
        lambda: {"f": block(4)},
    ),
    Clause(
        "3: slices that overlap are one source",
        lambda m, x: torch.cat([x[:, :5], m.f(x[:, 4:])], 1),
        lambda: {"f": block(4)},
        ("short identity concat 1",),
    ),
    Clause(
        "4: split, worked on and joined again",
        lambda m, x: (lambda a, b: torch.cat([a, m.f(b), m.f(m.f(b))], 1))(*m.g(x).chunk(2, 1)),
        lambda: {"f": block(4), "g": conv()},
    ),
    Clause(
        "5: a vector added in many positions conditions them",
        lambda m, x, c: m.g(m.f(x) + m.p(c)[:, :, None, None]) + m.p(c)[:, :, None, None],
        lambda: {"f": block(), "g": block(), "p": linear()},
        inputs=lambda: (image(), torch.empty(2, 8, device="meta")),
    ),
    Clause(
        "5: between vectors it is a residual like any other",
        lambda m, x: x + m.f(x),
        lambda: {"f": nn.Sequential(linear(), nn.ReLU(), linear())},
        (SKIP,),
        lambda: (torch.empty(2, 8, device="meta"),),
    ),
]

SHORT = [
    Clause(
        "S: a non-linearity behind a layer of the stem makes it a branch",
        lambda m, x: torch.relu(m.p(x)) + m.f(x),
        lambda: {"p": conv(), "f": block(depth=3)},
    ),
    Clause(
        "S: a projection followed by a norm is a shortcut",
        lambda m, x: m.p(x) + m.f(x),
        lambda: {"p": nn.Sequential(conv(), nn.BatchNorm2d(8, **META)), "f": block()},
        ("short projected add",),
    ),
    Clause(
        "S: a non-linearity before the layer of the stem does not matter",
        lambda m, x: m.p(torch.relu(x)) + m.f(x),
        lambda: {"p": conv(), "f": block()},
        ("short projected add",),
    ),
    Clause(
        "S: two linear maps side by side (LoRA)",
        lambda m, x: m.w(x) + m.b(m.a(x)),
        lambda: {"w": linear(), "a": linear(8, 2), "b": linear(2, 8)},
        inputs=lambda: (tokens(),),
    ),
    Clause(
        "S: a concat of pooled features is a reduction block",
        lambda m, x: torch.cat([F.max_pool2d(x, 2), m.f(x)], 1),
        lambda: {"f": block(stride=2)},
    ),
    Clause(
        "S: a sum with a pooled shortcut is a skip",
        lambda m, x: F.avg_pool2d(x, 2) + m.f(x),
        lambda: {"f": block(stride=2)},
        ("short projected add",),
    ),
    Clause(
        "S: a dense layer's concat",
        lambda m, x: torch.cat([x, m.f(x)], 1),
        lambda: {"f": block()},
        ("short identity concat 1",),
    ),
]

LONG = [
    Clause(
        "La: around a lower resolution and back",
        lambda m, x: torch.cat([x, halved(m, x)], 1),
        lambda: {"down": conv(stride=2), "f": block()},
        ("long identity concat 1",),
    ),
    Clause(
        "La: the same as a sum",
        lambda m, x: x + halved(m, x),
        lambda: {"down": conv(stride=2), "f": block()},
        ("long identity add",),
    ),
    Clause(
        "La: a lateral layer with its activation is short enough for a long way round",
        lambda m, x: torch.relu(m.p(x)) + halved(m, x),
        lambda: {"down": conv(stride=2), "f": block(), "p": conv()},
        ("long projected add",),
    ),
    Clause(
        "La: a stem of more than half the layers of the way round",
        lambda m, x: m.p(x) + halved(m, x),
        lambda: {"down": conv(stride=2), "f": block(), "p": block()},
    ),
    Clause(
        "La: around a higher resolution and back (super-resolution's back-projection)",
        lambda m, x: x + m.down(torch.relu(m.f(F.interpolate(x, scale_factor=2.0)))),
        lambda: {"down": conv(stride=2), "f": conv()},
        ("long identity add",),
    ),
    Clause(
        "La: the stem stays between the resolutions of its ends",
        lambda m, x: (
            F.interpolate(torch.relu(m.p(x)), scale_factor=2.0) + halved(m, F.interpolate(x, scale_factor=2.0))
        ),
        lambda: {
            "down": conv(stride=4),
            "f": nn.Sequential(block(depth=4), nn.Upsample(scale_factor=2.0)),
            "p": conv(),
        },
        ("long projected add",),
    ),
    Clause(
        "Lb: two skips in series, at one resolution",
        lambda m, x: x + m.tail(chain(m, x)),
        lambda: {"bodies": [block(), block()], "tail": conv()},
        (SKIP, SKIP, "long identity add"),
    ),
    Clause(
        "Lb: one skip in between is not enough",
        lambda m, x: x + m.tail(chain(m, x, 1)),
        lambda: {"bodies": [block(), block()], "tail": conv()},
        (SKIP, SKIP),
    ),
    Clause(
        "Lb: skips side by side are not in series",
        lambda m, x: x + m.tail(torch.relu((x + m.bodies[0](x)) * (x + m.bodies[1](x)))),
        lambda: {"bodies": [block(), block()], "tail": conv()},
        (SKIP, SKIP, SKIP),
    ),
    Clause(
        "Lb: a long concat at one resolution (U-ViT)",
        lambda m, x: m.mix(torch.cat([x, chain(m, x)], 1)),
        lambda: {"bodies": [block(), block(), block()], "mix": conv(16, 8)},
        (SKIP, SKIP, "long identity concat 1"),
    ),
]

GATES = [
    Clause(
        "a gate carries no signal: squeeze and excitation",
        lambda m, x: x + (lambda h: h * torch.sigmoid(m.e(h.mean((2, 3), keepdim=True))))(m.f(x)),
        lambda: {"f": block(), "e": nn.Conv2d(8, 8, 1, **META)},
        (SKIP,),
    ),
    Clause("a gate alone is no merge", lambda m, x: x * torch.sigmoid(m.f(x)), lambda: {"f": block()}),
    Clause("a gated linear unit", lambda m, x: m.f(x) * torch.sigmoid(m.g(x)), lambda: {"f": conv(), "g": conv()}),
    Clause(
        "element-wise in x it is an activation (SiLU), so that two layers with it are a non-linear branch",
        lambda m, x: (lambda h: h * torch.sigmoid(h))(m.p(x)) + m.f(x),
        lambda: {"p": conv(), "f": block(depth=3)},
    ),
    Clause(
        "a highway layer: g·h + (1 − g)·x",
        lambda m, x: (lambda g: g * m.f(x) + (1 - g) * x)(torch.sigmoid(m.g(x))),
        lambda: {"f": block(), "g": conv()},
        ("short identity gated",),
    ),
    Clause(
        "the same as x + g·(h − x)",
        lambda m, x: x + torch.sigmoid(m.g(x)) * (m.f(x) - x),
        lambda: {"f": block(), "g": conv()},
        ("short identity gated",),
    ),
    Clause(
        "the same as a lerp",
        lambda m, x: torch.lerp(x, m.f(x), torch.sigmoid(m.g(x))),
        lambda: {"f": block(), "g": conv()},
        ("short identity gated",),
    ),
    Clause(
        "a learned scale is no gate",
        lambda m, x: x * m.s + m.f(x),
        lambda: {"f": block(), "s": nn.Parameter(torch.empty(1, **META))},
        (SKIP,),
    ),
    Clause(
        "what only gates reach is dead",
        lambda m, x: m.f(x) * torch.sigmoid(m.g(x) + x),
        lambda: {"f": block(), "g": block()},
    ),
]

MERGES = [
    Clause("a bias is no operand", lambda m, x: m.f(x) + m.b, lambda: {"f": block(), "b": nn.Parameter(image())}),
    Clause("a mask is no operand", lambda m, x: m.f(x) + (x > 0), lambda: {"f": block()}),
    Clause("a concat over positions", lambda m, x: torch.cat([x, m.f(x)], 2), lambda: {"f": block()}),
    Clause("a concat over the batch", lambda m, x: torch.cat([x, m.f(x)], 0), lambda: {"f": block()}),
    Clause(
        "a concat of tokens over features",
        lambda m, x: m.g(torch.cat([x, m.f(x)], -1)),
        lambda: {"f": nn.Sequential(linear(), nn.ReLU(), linear()), "g": linear(16, 8)},
        ("short identity concat 1",),
        lambda: (tokens(),),
    ),
    Clause(
        "stacked and summed",
        lambda m, x: torch.stack([x, m.f(x)], 0).sum(0),
        lambda: {"f": block()},
        (SKIP,),
    ),
    Clause("x − F(x) is a residual", lambda m, x: x - m.f(x), lambda: {"f": block()}, (SKIP,)),
    Clause("F(x) − x is none", lambda m, x: m.f(x) - x, lambda: {"f": block()}),
    Clause(
        "a sum inside a sum is part of it: x + F + F∘F + F∘F∘F is three",
        lambda m, x: (lambda a: (lambda b: x + a + b + m.f(b))(m.f(a)))(m.f(x)),
        lambda: {"f": block()},
        (SKIP, SKIP, SKIP),
    ),
    Clause(
        "attention and MLP added at once are one skip (GPT-J)",
        lambda m, x: x + m.f(x) + m.g(x),
        lambda: {"f": block(), "g": block()},
        (SKIP,),
    ),
    Clause(
        "a concat inside a concat is part of it",
        lambda m, x: (lambda a: torch.cat([torch.cat([x, a], 1), m.f(a)], 1))(m.f(x)),
        lambda: {"f": block()},
        ("short identity concat 2",),
    ),
    Clause(
        "a dense block of three layers is three skips and six edges",
        lambda m, x: m.bodies[2](dense(m, x)),
        lambda: {"bodies": [block(8), block(16, 8), conv(32, 8), block(24, 8)]},
        ("short identity concat 1", "short identity concat 2", "short identity concat 3"),
    ),
    Clause(
        "inputs without a common ancestor",
        lambda m, x, y: m.f(x) + y,
        lambda: {"f": block()},
        (),
        lambda: (image(), image()),
    ),
    Clause("x + x", lambda m, x: x + x, dict),
    Clause("an unread sum", lambda m, x: (x + m.f(x), m.f(x))[1], lambda: {"f": block()}),
]


def dense(m: Any, x: Tensor) -> Tensor:
    a = torch.cat([x, m.bodies[0](x)], 1)
    b = torch.cat([a, m.bodies[1](a)], 1)
    return torch.cat([b, m.bodies[3](b)], 1)


RESOLUTION = [
    Clause(
        "a crop is no resampling: the concat keeps it",
        lambda m, x: torch.cat([x[:, :, 2:-2, 2:-2], m.f(x)], 1),
        lambda: {"f": nn.Sequential(nn.Conv2d(8, 8, 3, **META), nn.ReLU(), nn.Conv2d(8, 8, 3, **META))},
        ("short identity concat 1",),
    ),
    Clause(
        "padding is none, however much",
        lambda m, x: x + m.f(F.pad(x, (16, 16, 16, 16)))[:, :, 16:-16, 16:-16],
        lambda: {"f": block()},
        (SKIP,),
    ),
    Clause(
        "repeating one position is a broadcast",
        lambda m, x: x + m.f(x).mean((2, 3), keepdim=True).expand(-1, -1, 16, 16),
        lambda: {"f": block()},
        (SKIP,),
    ),
    Clause(
        "hidden units of a token-mixing layer are no positions",
        lambda m, x: (lambda t: t + m.f(m.norm(t).transpose(1, 2)).transpose(1, 2))(m.p(x).flatten(2).transpose(1, 2)),
        lambda: {
            "p": conv(),
            "norm": nn.LayerNorm(8, **META),
            "f": nn.Sequential(linear(64, 128), nn.GELU(), linear(128, 64)),
        },
        (SKIP,),
        lambda: (image(size=8),),
    ),
    Clause(
        "average pooling that keeps the resolution is a layer (PoolFormer)",
        lambda m, x: x + F.avg_pool2d(torch.tanh(x), 3, 1, 1),
        dict,
        (SKIP,),
    ),
    Clause("a Fourier transform is a layer (FNet)", lambda m, x: x + torch.fft.fft2(x).real, dict, (SKIP,)),
]

GROUPS = {
    "conditions": CONDITIONS, "short": SHORT, "long": LONG, "gates": GATES, "merges": MERGES, "resolution": RESOLUTION,
}  # fmt: skip


@pytest.mark.parametrize(
    "clause",
    [
        pytest.param(
            clause,
            id=f"{group}: {clause.reason}",
            marks=pytest.mark.xfail(reason=clause.wrong, strict=True) if clause.wrong else (),
        )
        for group, clauses in GROUPS.items()
        for clause in clauses
    ],
)
def test_clause(clause: Clause) -> None:
    graph = detected(Written(clause.forward, **clause.members()), clause.inputs())
    assert described(graph) == tuple(sorted(clause.skips))
