"""Rewrites by hand: right ones pass, and each mistake that one can make is found, fresh weights or not."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from skipgraph.errors import VerificationError
from skipgraph.passes.state_map import Piece
from skipgraph.verify import Verification, verify
from tests.verify.rewrites import Rewrite, split


class Dense(nn.Module):
    """Two concats; one goes through a norm into a convolution with a bias, one straight into another."""

    def __init__(self, *, bias: bool = True) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1, bias=bias)
        self.grow = nn.Conv2d(4, 6, 3, padding=1, bias=bias)
        self.norm = nn.BatchNorm2d(10)
        self.conv = nn.Conv2d(10, 5, 3, padding=1, bias=bias)
        self.norm_of_conv = nn.BatchNorm2d(5)
        self.head = nn.Conv2d(9, 2, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        a = self.stem(x)
        b = F.relu(self.grow(a))
        c = F.relu(self.norm_of_conv(self.conv(F.relu(self.norm(torch.cat([a, b], 1))))))
        return self.head(torch.cat([a, c], 1))


def dense() -> Rewrite:
    torch.manual_seed(0)
    return split(Dense(), torch.randn(1, 3, 8, 8))


def verified(rewrite: Rewrite, **settings: object) -> Verification:
    return verify(rewrite.before, rewrite.after, rewrite.args, rewrite.kwargs, rewrite.state_map, **settings)  # type: ignore[arg-type]


def fails(rewrite: Rewrite, *words: str, **settings: object) -> None:
    with pytest.raises(VerificationError) as caught:
        verified(rewrite, **settings)
    assert caught.value.exit_code == 4
    for word in words:
        assert word in str(caught.value)


def test_a_right_rewrite_passes() -> None:
    told: list[str] = []
    result = verified(dense(), progress=told.append)
    assert result.worst < 1e-10
    assert {check.mode for check in result.checks} == {"evaluation", "training"}
    assert {check.weights for check in result.checks} == {"given", "redrawn"}
    assert {check.shapes[0][0] for check in result.checks} >= {1, 3, 4}
    assert len({check.shapes[0][2:] for check in result.checks}) == 3
    assert len(told) == 10
    assert "comparisons in float64 within 1e-10" in result.summary
    assert "float32 error" in result.summary
    assert result.as_json()["worst"] == result.worst
    assert not result.skipped
    assert result.seconds < 3


def test_a_bias_before_a_norm_has_a_gradient_of_noise_alone() -> None:
    result = verified(dense(), tolerance=1e-14)
    assert 0 < result.noise_floor < 1e-4  # of a millionth of the largest gradient
    assert result.worst <= 1e-14
    assert "or rounding noise" in result.summary
    assert verified(split(Dense(bias=False), torch.randn(1, 3, 8, 8))).worst < 1e-10


def test_noise_hides_no_small_mistake() -> None:
    rewrite = dense()
    with torch.no_grad():
        rewrite.after.get_submodule("conv")[0].weight[0, 0, 0, 0] += 1e-6
    fails(rewrite, "output differs", tolerance=1e-14)


class Chaotic(Dense):
    """Rounding moves its outputs and gradients by more than can pass for noise."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(1e10 * super().forward(x))


def test_what_rounding_alone_moves_tells_nothing() -> None:
    """That is said, and what is left is compared all the same."""
    torch.manual_seed(0)
    rewrite = split(Chaotic(), torch.randn(1, 3, 8, 8))
    result = verified(rewrite)
    assert {check.what for check in result.checks} >= {"buffers"}
    assert result.worst < 1e-10
    assert {"outputs", "gradients"} <= {reason.split(", float64: ")[1].split(" of ")[0] for reason in result.skipped}
    assert all("rounding alone moves them" in reason for reason in result.skipped)
    with torch.no_grad():
        rewrite.after.get_submodule("head")[0].weight[0, 0, 0, 0] += 1e-3
    fails(rewrite, "output differs")


# -- mistakes in what the parts hold ---------------------------------------------------------------------------------


def swapped(rewrite: Rewrite, target: str, name: str, first: int, second: int) -> None:
    """Two parts of one size hold each other's slice, and the map says that this is right."""
    for place, piece in enumerate(rewrite.pieces):
        if piece.old == f"{target}.{name}":
            starts = {first: second, second: first}
            rewrite.pieces[place] = Piece(piece.old, piece.new, piece.axis, starts[piece.start], piece.length)
    parts = rewrite.after.get_submodule(target)
    a, b = (getattr(part, name).detach().clone() for part in parts)
    with torch.no_grad():
        getattr(parts[0], name).copy_(b)
        getattr(parts[1], name).copy_(a)


class Even(nn.Module):
    """Two operands of one size in front of a norm and a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 4, 3, padding=1)
        self.right = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.conv = nn.Conv2d(8, 5, 1)
        nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.relu(self.norm(torch.cat([self.left(x), self.right(x)], 1))))


def even() -> Rewrite:
    torch.manual_seed(0)
    return split(Even(), torch.randn(1, 3, 8, 8))


def test_even_passes() -> None:
    verified(even())


def test_swapped_slices_of_a_weight() -> None:
    rewrite = even()
    swapped(rewrite, "conv", "weight", 0, 4)
    fails(rewrite, "output differs", "given weights", "evaluation mode")


@pytest.mark.parametrize("name", ["weight", "bias", "running_mean", "running_var"])
def test_swapped_slices_of_a_fresh_norm(name: str) -> None:
    rewrite = even()
    swapped(rewrite, "norm", name, 0, 4)
    fails(rewrite, f"norm.1.{name}" if name in ("weight", "bias") else "")
    if "running" in name:  # nothing but other numbers in them shows it in evaluation
        fails(rewrite, "redrawn weights", modes=(False,))


def test_slice_that_is_off_by_one_channel() -> None:
    rewrite = even()
    for place, piece in enumerate(rewrite.pieces):
        if piece.new == "norm.1.weight":
            rewrite.pieces[place] = Piece(piece.old, piece.new, 0, piece.start - 1, piece.length)
    fails(rewrite, "norm.1.weight")


def test_dropped_bias_that_was_zero() -> None:
    rewrite = even()
    fresh = rewrite.after.get_submodule("conv")[0]

    def without_bias(graph: fx.Graph) -> None:
        node = next(node for node in graph.nodes if node.target == "conv.0")
        with graph.inserting_before(node):
            weight = graph.get_attr("conv.0.weight")
            new = graph.call_function(F.conv2d, (node.args[0], weight))
        node.replace_all_uses_with(new)
        graph.erase_node(node)

    assert not fresh.bias.any()
    fails(rewrite.edit(without_bias), "does not compute", modes=(False,))


def test_bias_that_is_a_little_off() -> None:
    rewrite = dense()
    with torch.no_grad():
        rewrite.after.get_submodule("conv")[0].bias[0] += 1e-3
    fails(rewrite, "given weights", "output differs", "The first node that differs is norm_of_conv")


def test_untied_weights() -> None:
    class Tied(Even):
        def __init__(self) -> None:
            super().__init__()
            self.right = self.left

    rewrite = split(Tied(), torch.randn(1, 3, 8, 8))
    verified(rewrite)
    rewrite.after.right = copy.deepcopy(rewrite.after.right)
    fails(rewrite, "gradient of right.weight")


def test_pieces_of_frozen_parameters_are_frozen() -> None:
    model = Even()
    model.norm.requires_grad_(False)
    rewrite = split(model, torch.randn(1, 3, 8, 8))
    verified(rewrite)
    rewrite.after.get_parameter("norm.1.bias").requires_grad_(True)
    fails(rewrite, "norm.1.bias is trained")


def test_state_map_that_does_not_fit() -> None:
    rewrite = even()
    rewrite.pieces.pop()
    fails(rewrite, "state map does not fit")


# -- mistakes in the graph -------------------------------------------------------------------------------------------


def at_output(change: Callable[[fx.Graph, fx.Node], fx.Node]) -> Callable[[fx.Graph], None]:
    """An edit that puts something else in the place of what the graph returns."""

    def edit(graph: fx.Graph) -> None:
        output = next(iter(graph.find_nodes(op="output")))
        with graph.inserting_before(output):
            output.args = (change(graph, output.args[0]),)

    return edit


def test_wrong_in_training_only() -> None:
    scaled = at_output(lambda graph, value: graph.call_function(operator.mul, (value, 1.001)))
    rewrite = dense().edit(scaled, modes=(True,))
    verified(rewrite, modes=(False,))
    fails(rewrite, "training mode")


def test_wrong_at_another_batch_size_only() -> None:
    def change(graph: fx.Graph, value: fx.Node) -> fx.Node:
        batch = graph.call_method("size", (value, 0))
        large = graph.call_function(operator.ge, (batch, 3))
        return graph.call_function(operator.mul, (value, graph.call_function(operator.add, (1, large))))

    fails(dense().edit(at_output(change)), "inputs 4x3x")


def test_wrong_at_another_spatial_size_raises() -> None:
    def change(graph: fx.Graph, value: fx.Node) -> fx.Node:
        graph.call_method("narrow", (value, 2, 0, 7))
        return value

    fails(
        dense().edit(at_output(change)), "the rewritten model raises RuntimeError", "inputs 4x3x4x4", "raises is narrow"
    )


def test_gradient_that_is_cut_off() -> None:
    def edit(graph: fx.Graph) -> None:
        node = next(node for node in graph.nodes if node.target == "norm.0")
        with graph.inserting_before(node):
            node.args = (graph.call_method("detach", node.args),)

    fails(dense().edit(edit), "gradient of", "All values agree; on the way back", "stem")


def test_first_diverging_node_is_named_with_its_module() -> None:
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.block, self.last = Even(), nn.Conv2d(5, 3, 1), Even()

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.block(self.first(x)))

    rewrite = split(Deep(), torch.randn(1, 3, 8, 8))
    swapped(rewrite, "first.conv", "weight", 0, 4)
    fails(rewrite, "The first node that differs is block (in block)")


def test_another_number_of_outputs() -> None:
    fails(dense().edit(lambda graph: next(iter(graph.find_nodes(op="output"))).update_arg(0, [])), "output")
