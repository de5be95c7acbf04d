"""Dropout, randomness, integers, nested outputs, half precision; and nothing of the user's changes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipgraph import ConcatToSum
from skipgraph.errors import WeightsError
from skipgraph.rewriting import planned
from skipgraph.verify import verify
from tests.verify.rewrites import split
from tests.verify.test_verify import Even, even, fails, swapped, verified


def image() -> Tensor:
    return torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_dropout_is_set_to_zero() -> None:
    class Dropping(Even):
        def __init__(self) -> None:
            super().__init__()
            self.dropout = nn.Dropout2d(0.5)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.cat([self.dropout(self.left(x)), F.dropout(self.right(x), training=self.training)], 1)
            return F.dropout(self.conv(F.relu(self.norm(x))), 0.3, self.training)

    rewrite = split(Dropping(), image())
    assert verified(rewrite).worst < 1e-10
    assert rewrite.before.dropout.p == 0.5


def test_dropout_of_attention_is_set_to_zero() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True)
            self.project = nn.Linear(16, 8)

        def forward(self, x: Tensor) -> Tensor:
            y = self.layer(x, x, x, need_weights=False)[0]
            z = F.scaled_dot_product_attention(x, x, x, dropout_p=0.5 if self.training else 0.0)
            return self.project(torch.cat([y, z], -1))

    assert verified(split(Attention(), torch.randn(1, 5, 8))).worst < 1e-10


class DropPath(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x.new_empty(x.shape[0], 1, 1, 1).bernoulli_(0.5) if self.training else x


class Stochastic(Even):
    def __init__(self) -> None:
        super().__init__()
        self.path = DropPath()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + self.path(x))


def test_randomness_is_seeded_alike() -> None:
    assert verified(split(Stochastic(), image())).worst < 1e-10


def test_randomness_that_is_drawn_otherwise_is_refused() -> None:
    rewrite = split(Stochastic(), image())

    def draw_before(graph: torch.fx.Graph) -> None:
        node = next(node for node in graph.nodes if node.target == "bernoulli_")
        with graph.inserting_before(node):
            graph.call_function(torch.rand, (7,))

    fails(rewrite.edit(draw_before, modes=(True,)), "forward is random", "bernoulli_", "path")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused(value: float) -> None:
    rewrite = even()
    with torch.no_grad():
        rewrite.before.conv.weight[0, 0, 0, 0] = value
    with pytest.raises(WeightsError, match=r"1 of the 40 values of conv.weight is infinite or NaN") as caught:
        verified(rewrite)
    assert caught.value.exit_code == 2


def test_integers_in_and_nested_outputs() -> None:
    class Language(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.places = nn.Embedding(11, 6), nn.Embedding(5, 4)
            self.head = nn.Linear(10, 7)
            self.register_buffer("table", torch.arange(5), persistent=True)

        def forward(self, ids: Tensor, mask: Tensor) -> dict[str, object]:
            places = self.places(self.table[: ids.shape[1]]).expand(ids.shape[0], -1, -1)
            logits = self.head(torch.cat([self.words(ids), places], -1)).masked_fill(~mask[..., None], -torch.inf)
            return {"logits": logits, "more": (logits.argmax(-1), [mask])}

    model = Language()
    ids, mask = torch.randint(11, (1, 5)), torch.tensor([[True, True, True, True, False]])
    rewrite = split(model, ids=ids, mask=mask)
    result = verified(rewrite)
    assert {check.comparisons for check in result.checks if check.what == "outputs"} == {3, 1}
    with torch.no_grad():
        rewrite.after.get_parameter("head.1.weight").mul_(1.01)
    fails(rewrite, "output logits")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    rewrite = split(Even().to(dtype), image().to(dtype))
    result = verified(rewrite)
    assert result.worst < 1e-10
    assert result.own_error is not None
    assert 1e-4 < result.own_error < 0.05
    assert str(dtype).removeprefix("torch.") in result.summary


def test_overflow_in_half_precision_alone() -> None:
    def edit(graph: torch.fx.Graph) -> None:
        output = next(iter(graph.find_nodes(op="output")))
        with graph.inserting_before(output):
            large = graph.call_method("mul", (output.args[0], 1e6))
            output.args = (graph.call_method("div", (large, 1e6)),)

    fails(split(Even().half(), image().half()).edit(edit), "float16", "off by inf")


def test_a_cast_to_float32_is_measured_in_float64() -> None:
    class Casting(Even):
        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(x.float())
            return y.softmax(1, dtype=torch.float32).to(x.dtype) + torch.ones(y.shape[-1], dtype=torch.float32)

    result = verified(split(Casting(), image()))
    assert max(check.error for check in result.checks if (check.what, check.dtype) == ("outputs", "float64")) < 1e-13


def test_fixed_sizes_are_left_out_and_said() -> None:
    class Fixed(Even):
        def __init__(self) -> None:
            super().__init__()
            self.position = nn.Parameter(torch.randn(1, 5, 8, 8))

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + self.position

    result = verified(split(Fixed(), image()))
    assert any("other spatial sizes" in reason for reason in result.skipped)
    assert {check.shapes[0][2] for check in result.checks} == {8}


def test_constants_of_the_rewrite_are_not_redrawn() -> None:
    rewrite = even()
    rewrite.after.register_buffer("identity", torch.eye(5)[:, :, None, None], persistent=False)

    def edit(graph: torch.fx.Graph) -> None:
        output = next(iter(graph.find_nodes(op="output")))
        with graph.inserting_before(output):
            output.args = (graph.call_function(F.conv2d, (output.args[0], graph.get_attr("identity"))),)

    assert verified(rewrite.edit(edit)).worst < 1e-10


def test_noise_in_the_statistics_of_a_norm_of_a_norm() -> None:
    class Twice(Even):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer = nn.BatchNorm2d(5), nn.BatchNorm2d(5)

        def forward(self, x: Tensor) -> Tensor:
            return self.outer(self.inner(super().forward(x)))

    assert verified(split(Twice(), image())).worst <= 1e-10


def test_nothing_of_the_user_changes() -> None:
    rewrite = split(Stochastic(), image())
    models = (rewrite.before, rewrite.after)
    for model in models:
        torch.manual_seed(3)
        model(image()).sum().backward()
        model.conv.eval()

    def state() -> list[object]:
        values: list[object] = [torch.get_rng_state(), torch.get_default_dtype(), torch.is_grad_enabled()]
        for model in models:
            for name, tensor in model.state_dict(keep_vars=True).items():
                values += [name, id(tensor), tensor.dtype, tensor.requires_grad, tensor.detach().clone()]
                values += [None if tensor.grad is None else tensor.grad.clone()]
            values += [module.training for module in model.modules()]
        return values

    for limit in (None, 1):
        before = state()
        verified(rewrite, memory_limit_bytes=limit)
        for old, new in zip(before, state(), strict=True):
            assert torch.equal(old, new) if isinstance(old, Tensor) else old == new


# -- part by part ----------------------------------------------------------------------------------------------------


def test_part_by_part() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.between, self.last = Even(), nn.Conv2d(5, 3, 1), Even()

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.between(self.first(x)))

    rewrite = split(Two(), image())
    result = verified(rewrite, memory_limit_bytes=1000)
    assert result.by_parts
    assert {check.what.rpartition(" of ")[2] for check in result.checks} == {"between", "output"}
    assert {(check.mode, check.weights) for check in result.checks} == {
        (mode, weights) for mode in ("evaluation", "training") for weights in ("given", "redrawn")
    }
    swapped(rewrite, "last.norm", "bias", 0, 4)
    fails(rewrite, "at output", "last.norm", memory_limit_bytes=1000)


def test_part_by_part_sees_weights_and_layers_outside_the_parts() -> None:
    rewrite = even()
    with torch.no_grad():
        rewrite.after.left.weight[0] += 1e-3
    fails(rewrite, "left.weight of the rewritten model does not follow", memory_limit_bytes=1000)
    rewrite = even()
    rewrite.after.left.padding = (0, 0)
    fails(rewrite, "left is Conv2d", memory_limit_bytes=1000)


class Dense(nn.Module):
    """Two joins that are one part, of which the second reads what comes late; one norm is a function."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.d = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
        self.norm, self.first, self.last = nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1), nn.Conv2d(12, 4, 1)
        self.register_buffer("mean", torch.zeros(12))
        self.register_buffer("variance", torch.ones(12))

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat([self.a(x), self.b(x)], 1)
        first = self.first(self.norm(joined).relu())
        more = self.d(x)
        both = nn.functional.batch_norm(
            torch.cat([joined, more], 1), self.mean, self.variance, training=self.training, momentum=0.1
        )
        return self.last(both.relu()) + first


class Sliced(nn.Module):
    """Two concats of which slices are read off the operands: one stays, the other goes."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
        self.first, self.last = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        stays = torch.cat([self.a(x), self.b(x)], 1)
        goes = torch.cat([self.b(x), self.c(x)], 1)
        last = self.last(torch.cat([stays[:, 4:], self.c(x)], 1))
        return stays, last + self.first(goes) + goes[:, :4]


def test_part_by_part_with_a_slice_of_a_concat() -> None:
    """One side reads the concat, the other its operand."""
    torch.manual_seed(0)
    result = planned(Sliced(), image(), ConcatToSum(), only=("*",), execution="separate")
    assert [outcome.status for outcome in result.plan.outcomes] == ["refused", "rewritten", "rewritten"]
    checked = verify(result.reference, result.model, *result.inputs, result.plan.state_map, memory_limit_bytes=0)
    assert (checked.by_parts, checked.skipped) == (True, ())


class Pooled(nn.Module):
    """Its last norm cannot train on one sample."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.join, self.norm = nn.Conv2d(3, 5, 1), nn.Conv2d(8, 4, 1), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.join(torch.cat([self.a(x).relu(), x], 1)).mean((2, 3)))


def test_part_by_part_with_one_sample() -> None:
    torch.manual_seed(0)
    result = planned(Pooled(), image()[:1], ConcatToSum(), only=("*",), execution="separate")
    checked = verify(result.reference, result.model, *result.inputs, result.plan.state_map, memory_limit_bytes=0)
    assert {check.mode for check in checked.checks} == {"evaluation", "training"}


def test_part_by_part_with_norms_that_count() -> None:
    """The original has run through a norm of the part before all is there that the part reads."""
    torch.manual_seed(0)
    result = planned(Dense(), image(), ConcatToSum(), only=("*",), execution="separate")
    assert [outcome.status for outcome in result.plan.outcomes] == ["rewritten", "rewritten"]
    checked = verify(result.reference, result.model, *result.inputs, result.plan.state_map, memory_limit_bytes=0)
    assert (checked.by_parts, checked.skipped) == (True, ())
    training = {check.what.partition(" of ")[0] for check in checked.checks if check.mode == "training"}
    assert training == {"outputs", "gradients", "buffers"}
