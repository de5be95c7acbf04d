"""Forwards of every kind: what people write, captured as it runs."""

from __future__ import annotations

from typing import Any, NamedTuple

import einops
import networkx as nx
import pytest
import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from skipgraph.capture import capture
from skipgraph.capture.program import Program
from tests.helpers.tracing import Written, block, conv, detected, image, tokens

META = {"device": "meta"}


def names(program: Program) -> list[str]:
    return [operator.name for operator in program.operators]


def test_optional_arguments() -> None:
    def forward(m: Any, x: Tensor, mask: Tensor | None = None, *, scale: Tensor | None = None) -> Tensor:
        x = m.f(x)
        return x if scale is None else x * scale

    model = Written(forward, f=conv())
    assert "mul" not in names(capture(model, (image(),)))
    assert "mul" not in names(capture(model, (image(), None)))
    program = capture(model, (image(),), {"scale": image()})
    assert "mul" in names(program)
    assert len(program.inputs) == 2


def test_inputs_have_the_names_of_the_forward() -> None:
    class Named(nn.Module):
        def forward(self, picture: Tensor, extra: dict[str, Any]) -> Tensor:
            return picture + extra["shift"] + extra["more"][1]

    extra = {"shift": image(), "more": [image(), image()]}
    program = capture(Named(), (image(), extra))
    assert [value.name for value in program.inputs] == ["picture", "extra.shift", "extra.more.0", "extra.more.1"]
    assert all(value.origin == "input" for value in program.inputs)


class Pair(NamedTuple):
    first: Tensor
    second: Tensor


def test_lists_dicts_and_named_tuples_go_in_and_come_out() -> None:
    def forward(m: Any, pair: Pair) -> dict[str, Any]:
        return {"sum": pair.first + pair.second, "rest": [pair._replace(first=m.f(pair.first)), None, 3]}

    program = capture(Written(forward, f=conv()), (Pair(image(), image()),))
    assert len(program.inputs) == 2
    assert [value.producer.name if value.producer else value.origin for value in program.outputs] == [
        "add",
        "convolution",
        "input",
    ]


def test_one_tensor_given_twice_is_one_input() -> None:
    x = image()
    graph = detected(Written(lambda m, a, b: a + m.f(b), f=block()), (x, x))
    assert graph.counts.add == 1


def test_shared_weights_and_repeated_calls() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        return m.second(m.first(m.first(x)))

    model = Written(forward, first=nn.Linear(8, 8, bias=False, **META), second=nn.Linear(8, 8, bias=False, **META))
    model.second.weight = model.first.weight
    program = capture(model, (tokens(),))
    weights = {value for operator in program.operators for value in operator.inputs if value.origin == "parameter"}
    assert len(weights) == 1
    assert [call.module_call.path for call in program.calls if call.function is F.linear] == [
        "first",
        "first",
        "second",
    ]
    assert model.second.weight is model.first.weight


def test_functional_calls_with_the_modules_own_weight() -> None:
    model = Written(lambda m, x: F.conv2d(x, m.conv.weight * 2.0, m.conv.bias, padding=1), conv=conv())
    graph = detected(model, (image(),))
    assert [node for node in graph if graph.nodes[node]["kind"] == "layer"] == ["convolution"]
    assert list(graph.operands("convolution")) == [(0, "args.0")]


@pytest.mark.parametrize("train", [False, True])
def test_train_only_branches(train: bool) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.f(x)
        return h + m.auxiliary(x) if m.training else h

    graph = detected(Written(forward, f=block(), auxiliary=block()), (image(),), train=train)
    assert len(graph.merges) == train


@pytest.mark.parametrize("train", [False, True])
def test_drop_path_is_no_gate(train: bool) -> None:
    graph = detected(Written(lambda m, x: x + m.drop(m.f(x)), f=block(), drop=DropPath(0.3)), (image(),), train=train)
    assert [(skip.kind, skip.span, skip.shortcut) for skip in graph.skips] == [("add", "short", "identity")]


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_segments(reentrant: bool, train: bool) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        return checkpoint(lambda y: y + m.f(y), m.stem(x), use_reentrant=reentrant)

    graph = detected(Written(forward, f=block(), stem=conv()), (image(),), train=train)
    assert graph.counts.add == graph.counts.skips == 1


@pytest.mark.parametrize("train", [False, True])
def test_regions_without_gradients_are_part_of_the_graph(train: bool) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            h = m.f(x)
        return x + h

    assert detected(Written(forward, f=block()), (image(),), train=train).counts.add == 1


def test_autocast_regions_are_traced_in_their_own_types() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            h = m.f(x)
        return x + h

    program = capture(Written(forward, f=conv().to_empty(device="cpu")), (torch.empty(1, 8, 4, 4),))
    assert program.autocast
    assert program.method == "fake"
    (convolution,) = [operator for operator in program.operators if operator.name == "convolution"]
    assert convolution.outputs[0].dtype == torch.bfloat16
    assert program.outputs[0].dtype == torch.float32


def test_custom_autograd_functions_show_their_inside() -> None:
    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, x: Tensor, y: Tensor) -> Tensor:
            return x + y

        @staticmethod
        def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
            return gradient, gradient

    for train in (False, True):
        assert (
            detected(Written(lambda m, x: Doubled.apply(x, m.f(x)), f=block()), (image(),), train=train).counts.add == 1
        )


def test_einops() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        sequence = einops.rearrange(x, "n c h w -> n (h w) c")
        back = einops.rearrange(m.f(sequence), "n (h w) c -> n c h w", h=x.shape[2])
        mean = einops.repeat(einops.reduce(back, "n c h w -> n c", "mean"), "n c -> n c h w", h=16, w=16)
        return x + back - mean

    graph = detected(Written(forward, f=nn.Sequential(nn.Linear(8, 8, **META), nn.ReLU())), (image(),))
    assert [(skip.source, skip.shortcut) for skip in graph.skips] == [("args.0", "identity")]


def test_encoder_layer_shows_both_of_its_sums() -> None:
    enabled = torch.backends.mha.get_fastpath_enabled()
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, **META).eval()
    graph = detected(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), (tokens(),))
    assert graph.counts.add == graph.counts.identity == 4
    assert torch.backends.mha.get_fastpath_enabled() == enabled


def test_decoder_layer_shows_all_three() -> None:
    layer = nn.TransformerDecoderLayer(8, 2, 16, batch_first=True, **META)
    assert detected(layer, (tokens(), tokens(length=5))).counts.add == 3


def test_shape_dependent_control_flow_and_unpacking() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        batch, channels, height, _ = x.shape
        assert channels == 8
        if height > 8:
            x = m.f(x)
        for piece in x.unbind(1)[: len(x)]:
            x = x + piece.unsqueeze(1)
        return x.view(batch, -1)

    program = capture(Written(forward, f=conv()), (image(),))
    assert names(program).count("add") == 2
    assert names(program).count("convolution") == 1


def test_boolean_masks_of_sizes_do_not_need_data() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        causal = torch.ones(16, 16, dtype=torch.bool, device=x.device).tril()
        return F.scaled_dot_product_attention(x, x, x, attn_mask=causal)

    program = capture(Written(forward), (tokens(),))
    assert program.method == "meta"


def test_operators_know_their_call_and_module() -> None:
    program = capture(Written(lambda m, x: m.f(x) + x, f=block()), (image(),))
    assert [(operator.name, operator.call.module_call.path) for operator in program.operators] == [
        ("convolution", "f.0"),
        ("relu", "f.1"),
        ("convolution", "f.2"),
        ("relu", "f.3"),
        ("add", ""),
    ]
    assert program.operators[-1].call.function in (torch.add, Tensor.add, Tensor.__add__)
    frame = program.operators[0].call.module_call
    assert frame.parent is not None
    assert frame.parent.path == "f"


def test_hooks_run_as_part_of_the_forward() -> None:
    model = Written(lambda m, x: m.f(x), f=block())
    model.f.register_forward_hook(lambda module, args, result: result + args[0])
    assert detected(model, (image(),)).counts.add == 1
    assert len(model.f._forward_hooks) == 1


def test_two_captures_are_alike() -> None:
    model = Written(lambda m, x: x + m.f(x), f=block())
    assert names(capture(model, (image(),))) == names(capture(model, (image(),)))
    first, second = (detected(model, (image(),)) for _ in range(2))
    assert nx.utils.graphs_equal(first, second)
