"""Results that are known by rule are those that PyTorch's own meta kernels make."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from skipgraph.capture import capture
from skipgraph.capture.evaluation import _RULES
from skipgraph.capture.program import Storage, Value

SHAPES = [(2, 3, 4, 5), (1, 8), (2, 3, 4), (1, 1, 1, 1), (3, 0, 2), (2, 1, 4)]
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


def value(tensor: torch.Tensor) -> Value:
    return Value(0, tensor.shape, tensor.stride(), 0, tensor.dtype, Storage(0, 0, -1, "input"))


def operands(overload: Any, shape: tuple[int, ...], dtype: torch.dtype, layout: str) -> list[Any]:
    def made() -> torch.Tensor:
        tensor = torch.empty(shape, dtype=dtype, device="meta")
        if layout == "channels last" and len(shape) == 4:
            return tensor.to(memory_format=torch.channels_last)
        return tensor.transpose(0, -1) if layout == "transposed" else tensor

    channels = made().shape[1]
    if overload is torch.ops.aten.native_batch_norm.default:
        statistics = [torch.empty(channels, dtype=dtype, device="meta") for _ in range(4)]
        return [made(), *statistics, False, 0.1, 1e-5]
    if overload is torch.ops.aten.cat.default:
        return [[made(), made(), made()], 1]
    return (
        [made(), made()] if overload._schema.name in ("aten::add", "aten::sub", "aten::mul", "aten::div") else [made()]
    )


def described(result: Any) -> list[Any]:
    results = result if isinstance(result, tuple) else (result,)
    return [(tensor.shape, tensor.stride(), tensor.dtype) for tensor in results]


@pytest.mark.parametrize("layout", ["contiguous", "channels last", "transposed"])
@pytest.mark.parametrize("overload", list(_RULES), ids=str)
def test_a_rule_says_what_the_kernel_does(overload: Any, layout: str) -> None:
    applied = 0
    for shape in SHAPES:
        for dtype in DTYPES:
            given = operands(overload, shape, dtype, layout)
            values = [[value(one) for one in item] if isinstance(item, list)
                      else value(item) if isinstance(item, torch.Tensor) else item for item in given]  # fmt: skip
            recipe = _RULES[overload](values)
            if recipe is not None:
                applied += 1
                assert [tuple(one) for one in recipe] == described(overload(*given))
    assert applied >= (12 if layout == "contiguous" else 1)


def test_what_a_rule_does_not_cover_is_left_to_the_kernel() -> None:
    x = value(torch.empty(2, 3, device="meta"))
    integers = value(torch.empty(2, 3, dtype=torch.int64, device="meta"))
    narrow = value(torch.empty(1, 3, device="meta"))
    assert _RULES[torch.ops.aten.add.Tensor]([x, narrow]) is None
    assert _RULES[torch.ops.aten.add.Tensor]([x, 2]) is None
    assert _RULES[torch.ops.aten.div.Tensor]([integers, integers]) is None
    assert _RULES[torch.ops.aten.cat.default]([[x, narrow], 1]) is None
    statistics = [value(torch.empty(3, device="meta"))] * 4
    assert _RULES[torch.ops.aten.native_batch_norm.default]([x, *statistics, True, 0.1, 1e-5]) is None


def test_kernels_are_not_run_where_a_rule_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    run: list[str] = []

    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            run.append(str(func))
            return func(*args, **(kwargs or {}))

    model = torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.ReLU()).eval()
    with Seen():
        program = capture(model, (torch.empty(1, 3, 4, 4),))
    assert [operator.name for operator in program.operators][-2:] == ["native_batch_norm", "relu"]
    assert not [name for name in run if "batch_norm" in name or "relu" in name]
