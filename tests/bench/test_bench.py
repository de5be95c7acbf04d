"""Two models side by side: what comes out, what is left untouched, what is refused. No test looks at a time."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

import skipgraph
from skipgraph.bench import Bench, bench, table
from skipgraph.bench.settings import Settings, in_force
from skipgraph.bench.timing import take_turns
from skipgraph.errors import ModelError, UsageError

IMAGE = torch.randn(1, 3, 8, 8)


def net(depth: int = 1) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), *(nn.Conv2d(4, 4, 3, padding=1) for _ in range(depth)))


def quick(a: nn.Module, b: nn.Module, inputs: Any = IMAGE, **options: Any) -> Bench:
    return bench(a, b, inputs, **({"min_seconds": 0.005, "threads": 1} | options))


def test_what_is_told() -> None:
    result = quick(net(1), net(2), names=("shallow", "deep"))
    assert (result.a.name, result.b.name) == ("shallow", "deep")
    assert result.b.parameter_bytes - result.a.parameter_bytes == 4 * (4 * 4 * 9 + 4)
    assert result.device
    assert result.rounds >= 6
    assert result.a.quartiles[0] <= result.a.seconds <= result.a.quartiles[1]
    assert result.ratio.low <= result.ratio.value <= result.ratio.high
    assert result.output_difference is not None
    assert result.output_difference > 0


def test_a_model_and_itself_give_the_same_outputs() -> None:
    model = net()
    assert quick(model, model).output_difference == 0


def test_json_is_plain_and_whole() -> None:
    result = quick(net(), net(), dtype="bf16", channels_last=True)
    document = result.as_json()
    assert json.loads(json.dumps(document)) == document
    assert document["schema"] == "skipgraph.bench/1"
    assert document["inputs"] == [{"name": "0", "shape": [1, 3, 8, 8], "dtype": "bfloat16"}]
    assert document["settings"]["channels_last"] is True
    assert set(document["ratio"]) == {"value", "low", "high", "confidence", "method", "rounds"}
    assert set(document["a"]) == {
        *("name", "seconds", "quartiles", "runs", "peak_bytes", "parameter_bytes", "buffer_bytes"),
    }
    assert document["summary"] == result.ratio.summary


def test_table_says_the_verdict_and_where() -> None:
    result = quick(net(), net(), training=True)
    text = table(result, width=80)
    assert result.summary in text
    assert "training" in text
    assert "1 thread ·" in text
    assert max(map(len, text.splitlines())) <= 80


def test_models_are_not_changed() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    quick(model, model, training=True, dtype="f64", channels_last=True)
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None and parameter.dtype == torch.float32 for parameter in model.parameters())


def test_threads_are_set_back() -> None:
    before = torch.get_num_threads()
    with in_force(Settings(threads=before + 1), torch.device("cpu")):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_inputs_without_data_and_by_name() -> None:
    class Lookup(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(2, 4)

        def forward(self, ids: torch.Tensor, scale: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"scaled": self.table(ids) * scale}

    inputs = {"ids": torch.empty(1, 5, dtype=torch.int64, device="meta"), "scale": torch.empty((), device="meta")}
    result = quick(Lookup(), Lookup(), inputs, batch=3)
    assert [entry["shape"] for entry in result.inputs] == [[3, 5], []]


def test_models_take_turns_with_neither_always_first() -> None:
    order: list[str] = []
    turns = take_turns(lambda: order.append("a"), lambda: order.append("b"), torch.device("cpu"), 1e-6)
    assert len(turns.rounds) >= 6
    assert [len(blocks) for blocks in turns.blocks] == [2 * len(turns.rounds)] * 2
    blocks = "".join(name for name, before in zip(order, ["", *order[:-1]], strict=True) if name != before)
    assert "aba" in blocks
    assert "bab" in blocks


def test_the_package_is_the_function() -> None:
    assert skipgraph.bench(net(), net(), IMAGE, min_seconds=0.005).rounds >= 6


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"device": "tpu"}, "unknown device 'tpu'"),
        ({"device": "meta"}, "nothing can be timed on meta"),
        ({"cuda_graphs": True}, "a CPU has no CUDA graphs"),
        ({"dtype": "tf32"}, "TF32 is a precision of CUDA devices"),
        ({"dtype": "int8"}, "no network computes in int8"),
        ({"dtype": "float3"}, "unknown dtype 'float3'"),
        ({"batch": 0}, "batch is 0"),
        ({"min_seconds": 0.0}, "0.0 seconds cannot be measured"),
        ({"inputs": torch.randn(2, 3), "channels_last": True}, "channels-last has no meaning"),
    ],
)
def test_settings_without_meaning(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        quick(net(), net(), **options)
    assert caught.value.remedy


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_no_cuda() -> None:
    with pytest.raises(UsageError, match="cuda cannot be used"):
        quick(net(), net(), device="cuda")


def test_outputs_of_unlike_structure() -> None:
    with pytest.raises(UsageError, match=r"the output is 1×4×8×8 in A and 1×3×8×8 in B"):
        quick(net(), nn.Identity())


def test_a_model_without_data() -> None:
    with pytest.raises(UsageError, match="B has no data"):
        quick(net(), net().to("meta"))


def test_nothing_to_train() -> None:
    with pytest.raises(UsageError, match="A has nothing to train"):
        quick(nn.Identity(), nn.Identity(), training=True)


def test_an_exported_program_does_not_train() -> None:
    exported = torch.export.export(net().eval(), (IMAGE,)).module()
    assert quick(exported, exported).output_difference == 0
    with pytest.raises(UsageError, match="stays in its mode"):
        quick(exported, exported, training=True)


def test_a_model_that_raises() -> None:
    with pytest.raises(ModelError, match="running B failed: .*RuntimeError"):
        quick(net(), nn.Conv2d(5, 4, 1))


def test_compiling_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(model: nn.Module, **options: Any) -> Any:
        def call(*args: Any) -> Any:
            raise RuntimeError("no compiler\n\nhere\nat all\nin any place")

        return call

    monkeypatch.setattr(torch, "compile", refuse)
    with pytest.raises(ModelError, match="compiling A failed: .*no compiler") as caught:
        quick(net(), net(), compile=True)
    assert caught.value.exit_code == 3
    assert "in any place" not in caught.value.message
