"""What a rewrite leaves as it was: the user's model, and all that was not asked for."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from skipgraph import ConcatToSum, SumToConcat
from skipgraph.errors import CaptureError, NothingToRewriteError
from skipgraph.rewriting import planned, rewrite
from tests.helpers import fixtures
from tests.helpers.rerun import redrawn
from tests.helpers.sameness import assert_same_weights


class Around(nn.Module):
    """A join, with all around it that a rewrite has no business with."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.branch = nn.Conv2d(8, 8, 3, padding=1)
        self.join = nn.Conv2d(16, 8, 3, padding=1)
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8, bias=False)
        self.second.weight = self.first.weight
        self.register_buffer("scale", torch.full((1, 8, 1, 1), 2.0), persistent=False)

    def train(self, mode: bool = True) -> Around:
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        x = self.join(torch.cat([x, self.branch(x).relu()], 1)).relu() * self.scale
        return self.second(self.first(x.mean((2, 3))).relu())


def test_nothing_is_written_into_the_users_model() -> None:
    torch.manual_seed(0)
    model, x = redrawn(Around()).train(), torch.randn(2, 3, 8, 8)
    heard: list[str] = []
    model.stem.register_forward_hook(lambda *_: heard.append("stem"))  # type: ignore[union-attr]
    model.join.branch_of = "mine"  # type: ignore[union-attr, assignment]
    model.branch.requires_grad_(False)  # type: ignore[union-attr]
    model(x).sum().backward()
    heard.clear()

    def seen() -> dict[str, Any]:
        return {
            "tensors": {key: (id(one), one._version) for key, one in model.state_dict(keep_vars=True).items()},
            "gradients": {key: (id(one.grad), one.requires_grad) for key, one in model.named_parameters()},
            "modes": {key: one.training for key, one in model.named_modules()},
            "modules": {key: id(one) for key, one in model.named_modules()},
            "attributes": {key: sorted(vars(one)) for key, one in model.named_modules()},
            "hooks": {
                key: [list(getattr(one, kind)) for kind in vars(one) if kind.endswith("_hooks")]
                for key, one in model.named_modules()
            },
        }

    before, state, drawn_from = seen(), copy.deepcopy(model.state_dict()), torch.get_rng_state()
    gradients = {key: one.grad.clone() for key, one in model.named_parameters() if one.grad is not None}
    for what in (ConcatToSum(), SumToConcat(allow_identity=True)):
        planned(model, (x,), what, execution="separate")
    assert seen() == before
    assert_same_weights(model.state_dict(), state)
    assert all(torch.equal(one.grad, gradients[key]) for key, one in model.named_parameters() if key in gradients)  # type: ignore[arg-type]
    assert torch.equal(torch.get_rng_state(), drawn_from)


def test_what_is_untouched_stays() -> None:
    torch.manual_seed(0)
    model = redrawn(Around()).to(torch.bfloat16, memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.stem.requires_grad_(False)
    model.join.weight.requires_grad_(False)
    heard: list[str] = []
    model.stem.register_forward_hook(lambda *_: heard.append("stem"))
    x = torch.randn(2, 3, 8, 8, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    result = planned(model.train(), (x,), ConcatToSum(), execution="separate")
    new, old = dict(result.model.named_parameters()), dict(model.named_parameters())
    assert set(old) - set(new) == {"join.weight", "join.bias"}
    assert set(new) - set(old) == {"join.0.weight", "join.0.bias", "join.1.weight"}
    assert {name: one.requires_grad for name, one in new.items() if name in old} == {
        name: one.requires_grad for name, one in old.items() if name in new
    }
    assert [new[f"join.{name}"].requires_grad for name in ("0.weight", "0.bias", "1.weight")] == [False, True, False]
    for name in ("stem.weight", "branch.weight", "join.0.weight", "join.1.weight"):
        assert new[name].is_contiguous(memory_format=torch.channels_last), name
    assert {one.dtype for one in new.values()} == {torch.bfloat16}
    assert result.model.second.weight is result.model.first.weight  # type: ignore[union-attr]
    assert "scale" not in result.model.state_dict()
    heard.clear()
    result.model(x)
    assert heard == ["stem"]
    assert result.model.training
    assert not result.model.norm.training  # type: ignore[union-attr]
    back = result.undo()
    assert_same_weights(back.state_dict(), model.state_dict())
    assert {name: one.requires_grad for name, one in back.named_parameters()} == {
        name: one.requires_grad for name, one in old.items()
    }
    assert back.join.weight.is_contiguous(memory_format=torch.channels_last)  # type: ignore[union-attr, operator]
    assert back.second.weight is back.first.weight  # type: ignore[union-attr]


def unet() -> tuple[nn.Module, Any]:
    fixture = fixtures.load("unet")
    return fixture.model_class(width=8), fixture.example_inputs


def test_what_is_not_asked_for_stays() -> None:
    model, inputs = unet()
    frozen = dict(model.named_parameters())["decoder.0.conv.0.weight"].requires_grad_(False)
    result = planned(model, inputs, ConcatToSum(), only=["decoder.0"], execution="separate")
    parameters = dict(result.model.named_parameters())
    assert not parameters["decoder.0.conv.0.1.weight"].requires_grad
    assert not frozen.requires_grad
    touched = {name for name in parameters if name not in dict(model.named_parameters())}
    assert touched == {"decoder.0.conv.0.0.weight", "decoder.0.conv.0.1.weight"}
    assert [outcome.status for outcome in result.plan.outcomes] == ["rewritten", *["excluded"] * 3]


def test_patterns_that_match_nothing() -> None:
    model, inputs = unet()
    with pytest.raises(NothingToRewriteError, match="no skip and no module matches 'nowhere'"):
        rewrite(model, inputs, ConcatToSum(), only=["nowhere"])
    with pytest.raises(NothingToRewriteError, match="nothing to rewrite"):
        rewrite(model, inputs, ConcatToSum(), skip=["*"])


class FrozenBehind(nn.Module):
    """A batch norm behind a join, which stays in evaluation when the model trains."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(11)
        self.join = nn.Conv2d(11, 4, 1)

    def train(self, mode: bool = True) -> FrozenBehind:
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.join(self.norm(torch.cat([x, self.branch(x).relu()], 1)))


def test_parts_of_a_frozen_norm_are_frozen() -> None:
    result = rewrite(redrawn(FrozenBehind()).float(), torch.randn(2, 3, 8, 8), ConcatToSum(), execution="separate")

    def modes(model: nn.Module) -> list[tuple[str, bool]]:
        norms = [(path, one) for path, one in model.named_modules() if isinstance(one, nn.BatchNorm2d)]
        return [(path, one.training) for path, one in norms]

    assert modes(result.model.train()) == [("norm.0", False), ("norm.1", False)]
    assert modes(result.model.copy().train()) == [("norm.0", False), ("norm.1", False)]
    assert modes(result.undo().train()) == [("norm", False)]


class LeavesOut(Around):
    """Its training leaves out a layer by a number that it draws."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and torch.rand(()) < 0.1:
            return super().forward(x.relu())
        return super().forward(x)


def test_a_rewrite_for_inference_does_without_training() -> None:
    torch.manual_seed(0)
    model, x = redrawn(LeavesOut()).eval(), torch.randn(2, 3, 8, 8)
    with pytest.raises(CaptureError, match=r"in training, .* at random.*\n.*--inference"):
        rewrite(model, x, ConcatToSum(), execution="separate")
    result = rewrite(model, x, ConcatToSum(), execution="separate", inference=True)
    assert result.after.counts.concat == 0
    assert {check.mode for check in result.verification.checks} == {"evaluation"}
    torch.testing.assert_close(result.model(x), model(x))


class Pooled(Around):
    """Its norm cannot train on one sample."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.BatchNorm1d(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.last(super().forward(x))
        return x * 2 if self.training else x


def test_one_sample_will_do() -> None:
    torch.manual_seed(0)
    model, x = redrawn(Pooled()).eval(), torch.randn(1, 3, 8, 8)
    result = rewrite(model, x, ConcatToSum(), execution="separate")
    assert result.after.counts.concat == 0
    torch.testing.assert_close(result.model(x), model(x))
