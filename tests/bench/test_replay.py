"""The replay of what capture recorded: it computes what the model does, and shows where a record is wrong."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from skipgraph.capture.program import Operator
from tests.helpers.tracing import Written

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

FILE = Path(__file__).parents[2] / "benchmarks" / "zoo_replay.py"


@pytest.fixture(scope="module")
def replay() -> ModuleType:
    spec = importlib.util.spec_from_file_location("zoo_replay", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _writes_in_place(m: Any, x: Tensor) -> Tensor:
    whole = torch.zeros(2, 6, device=x.device)
    part = whole[:, :4]
    part += m.linear(x)
    return whole.view(3, 4) + x.sum().relu_()


def _attends(m: Any, x: Tensor) -> Tensor:
    query, key, value = m.linear(x).view(1, 1, 2, 4).repeat(3, 1, 1, 1).unbind()
    attended: Tensor = torch.nn.functional.scaled_dot_product_attention(query[None], key[None], value[None])
    return attended + m.offset


def _draws(m: Any, x: Tensor) -> Tensor:
    return x + m.linear(x) * torch.rand(2, 4, device=x.device)


def _decides(m: Any, x: Tensor) -> Tensor:
    result: Tensor = m.part(m.linear(x))
    return result * 2


@pytest.mark.parametrize("forward", [_writes_in_place, _attends, _draws, _decides])
def test_a_graph_computes_what_the_model_does(replay: ModuleType, forward: Callable[..., Tensor]) -> None:
    part = Written(lambda m, x: x + 1 if x.sum() > 0 else x - 1)
    model = Written(forward, linear=nn.Linear(4, 4), part=part, offset=torch.tensor([0.5])).eval()
    pairs, ends = replay.replayed(model, ((torch.randn(2, 4),), {}))
    assert ends == ""
    assert len(pairs) == (2 if forward is _decides else 1)
    assert all(torch.equal(one, other) for one, other in pairs)


class Choosing(nn.Module):
    """Its end depends on its values."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.linear(x)
        return scores[scores > 0]


def test_as_far_as_it_was_captured(replay: ModuleType) -> None:
    pairs, ends = replay.replayed(Choosing(), ((torch.randn(2, 4),), {}))
    assert pairs
    assert "before" in ends


def test_a_wrong_operand_is_seen(replay: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        return torch.sub(m.linear(x), x)

    run = replay._Replay.run

    def swapped(self: Any, operator: Operator) -> None:
        if operator.name == "sub":
            operator.args = operator.args[::-1]
        run(self, operator)

    monkeypatch.setattr(replay._Replay, "run", swapped)
    ((one, other),), _ = replay.replayed(Written(forward, linear=nn.Linear(4, 4)), ((torch.randn(2, 4),), {}))
    assert not torch.equal(one, other)
