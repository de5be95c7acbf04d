"""The steps down from meta tensors, each said to the user: fake tensors, opaque leaves, torch.export, an error."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from skipgraph.capture import capture
from skipgraph.cost import price
from skipgraph.errors import CaptureError
from skipgraph.graph import build
from tests.helpers.tracing import Written, detected


class ReadsAConstant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.times = torch.tensor(2)
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times.item()):
            x = x + torch.relu(self.linear(x))
        return x


class ReadsABuffer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("times", torch.tensor(2))
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(int(self.times)):
            x = x + torch.relu(self.linear(x))
        return x


class BranchesOnData(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return self.linear(x)
        return x * 2


def test_a_plain_forward_takes_no_step_down() -> None:
    program = capture(nn.Linear(4, 4), (torch.empty(2, 4),))
    assert (program.method, program.warnings, program.opaque) == ("meta", [], [])


def test_a_model_that_reads_a_constant_runs_on_fake_tensors() -> None:
    program = capture(ReadsAConstant(), (torch.empty(2, 4),))
    assert program.method == "fake"
    assert [operator.name for operator in program.operators].count("relu") == 2
    (warning,) = program.warnings
    assert "item" in warning
    assert detected(ReadsAConstant(), (torch.empty(2, 4),)).counts.add == 2


def test_a_model_that_reads_a_buffer_runs_on_fake_tensors() -> None:
    program = capture(ReadsABuffer(), (torch.empty(2, 4),))
    assert (program.method, program.opaque) == ("fake", [])
    assert detected(ReadsABuffer(), (torch.empty(2, 4),)).counts.add == 2


def test_a_part_that_depends_on_data_becomes_an_opaque_leaf() -> None:
    model = Written(lambda m, x: x + m.part(torch.relu(m.linear(x))), linear=nn.Linear(4, 4), part=BranchesOnData())
    program = capture(model, (torch.empty(2, 4),))
    assert [path for path, _ in program.opaque] == ["part"]
    assert any("part is an opaque leaf" in warning for warning in program.warnings)
    computing = [operator.name for operator in program.operators if operator.name not in ("t", "device")]
    assert computing == ["addmm", "relu", "opaque", "add"]
    graph = detected(model, (torch.empty(2, 4),))
    assert [(skip.source, skip.merge) for skip in graph.skips] == [("args.0", "add")]


def test_a_root_that_depends_on_data_is_an_error_in_the_models_words() -> None:
    with pytest.raises(CaptureError) as raised:
        capture(BranchesOnData(), (torch.empty(5000, 4),))
    error = raised.value
    assert error.exit_code == 3
    assert "BranchesOnData" in error.message
    assert "depends on the data" in error.message
    assert "x 5000x4 float32" in error.message
    assert error.remedy


def test_a_forward_that_raises_is_quoted_with_its_module_and_shapes() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(4, 5))
    with pytest.raises(CaptureError) as raised:
        capture(model, (torch.empty(2, 4),))
    assert raised.value.exit_code == 3
    assert "in 1" in raised.value.message
    assert "input 2x4 float32" in raised.value.message


def test_a_missing_input() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x + y

    with pytest.raises(CaptureError, match="missing 1 required positional argument: 'y'"):
        capture(Two(), (torch.empty(1),))


@pytest.mark.parametrize("value", [1.0, -1.0])
def test_values_of_inputs_are_never_read(value: float) -> None:
    """A branch on an input's value is refused, or the user is told of it."""
    model = Written(lambda m, x: x + m.part(x), part=Written(lambda m, x: torch.tanh(x) if x[0] > 0 else torch.sin(x)))
    program = capture(model, (torch.full((3,), value),))
    assert [path for path, _ in program.opaque] == ["part"]


def test_ints_and_none_pass_through() -> None:
    def forward(m: Any, x: Tensor, times: int, nothing: None) -> Tensor:
        return x.repeat(times, 1)

    assert capture(Written(forward), (torch.empty(2, 3), 4, None)).outputs[0].shape == (8, 3)


class EndsInValues(nn.Module):
    """A detector in small: layers, a residual sum, and a choice of results that depends on them."""

    def __init__(self, *, inline: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.inline = inline

    def choose(self, scores: Tensor, names: list[str]) -> Tensor:
        return scores[scores > 0] if names else scores

    def forward(self, x: Tensor) -> Tensor:
        scores = x + torch.relu(self.linear(x))
        return scores[scores > 0] if self.inline else self.choose(scores, ["a"])


@pytest.mark.parametrize(("inline", "name"), [(False, "choose"), (True, "forward")])
def test_a_forward_that_ends_in_reading_values_is_captured_as_far_as_that(inline: bool, name: str) -> None:
    model = EndsInValues(inline=inline)
    program = capture(model, (torch.empty(2, 4),))
    assert [path for path, _ in program.opaque] == [name]
    assert any(f"{name}() is an opaque leaf, and the last" in warning for warning in program.warnings)
    last = program.operators[-1]
    assert (last.name, program.outputs) == ("opaque", last.outputs)
    assert detected(model, (torch.empty(2, 4),)).counts.add == 1


def test_what_is_computed_of_constants_alone_may_be_read() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        mask = torch.ones(x.shape[0], 600, dtype=torch.bool, device=x.device)
        mask[:, 500:] = False
        longest = mask.long().sum(1).max().item()
        position = torch.arange(longest, device=x.device).unsqueeze(0)
        return x if bool((position > 499).any()) else m.linear(x)

    program = capture(Written(forward, linear=nn.Linear(4, 4)), (torch.empty(2, 4),))
    assert (program.method, program.opaque) == ("fake", [])
    assert "addmm" in [operator.name for operator in program.operators]


def test_a_constant_that_data_is_written_into_is_one_no_longer() -> None:
    """Through a view of it, after something had to be read: the view and the constant are one memory."""

    def forward(m: Any, x: Tensor) -> Tensor:
        padded = torch.zeros(2, 6, 4, device=x.device)
        length = torch.full((2,), 5, device=x.device).max().item()
        padded[:, :length] = x
        return padded + torch.relu(m.linear(padded))

    graph = detected(Written(forward, linear=nn.Linear(4, 4)), (torch.empty(2, 5, 4),))
    assert graph.counts.add == 1


def _chosen_by(m: Any, x: Tensor, mask: Tensor) -> Tensor:
    kept = x[mask]
    for _ in range(int(mask.long().sum())):
        kept = kept + torch.relu(m.linear(kept))
    return kept


def test_masks_are_read_where_the_forward_asks_for_them() -> None:
    """The graph is that of the mask that is given, and the user is told so."""
    model = Written(_chosen_by, linear=nn.Linear(4, 4))
    program = capture(model, (torch.empty(5, 4), torch.tensor([True, False, True, True, False])))
    assert (program.method, program.opaque) == ("fake", [])
    assert program.outputs[0].shape == (3, 4)
    assert any("reads its masks" in warning for warning in program.warnings)
    assert [operator.name for operator in program.operators].count("relu") == 3
    with pytest.raises(CaptureError, match="depends on the data"):
        capture(model, (torch.empty(5, 4), torch.empty(5, dtype=torch.bool, device="meta")))


def test_what_is_computed_of_an_input_may_not() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        return x if bool((torch.zeros(4, device=x.device) + x).any()) else m.linear(x)

    with pytest.raises(CaptureError, match="depends on the data"):
        capture(Written(forward, linear=nn.Linear(4, 4)), (torch.empty(2, 4),))


@pytest.mark.filterwarnings("ignore:Accessing the data pointer")
def test_a_part_that_only_real_tensors_run_through_is_an_opaque_leaf() -> None:
    def asks_for_data(m: Any, x: Tensor) -> Tensor:
        if x.untyped_storage().data_ptr() == 0:
            raise RuntimeError("this kernel has no fake")
        return torch.relu(x)

    model = Written(lambda m, x: x + m.part(m.linear(x)), linear=nn.Linear(4, 4), part=Written(asks_for_data))
    program = capture(model, (torch.empty(2, 4),))
    assert [path for path, _ in program.opaque] == ["part"]


def test_a_mask_lets_everything_through_an_opaque_leaf() -> None:
    """What it chooses is as large as it can be."""
    model = Written(lambda m, x, mask: m.part(x, mask), part=Written(lambda m, x, mask: x[mask]))
    program = capture(model, (torch.empty(5, 4), torch.zeros(5, dtype=torch.bool)))
    assert program.outputs[0].shape == (5, 4)


GROUPS = torch.tensor([4, 8, 16], dtype=torch.int32)


@pytest.mark.skipif(not hasattr(nn.functional, "grouped_mm"), reason="this PyTorch has no grouped product")
@pytest.mark.parametrize(
    ("left", "right", "flops"),
    [
        ((16, 8), (3, 8, 32), 16 * 8 * 32),
        ((3, 4, 8), (8, 16), 4 * 8 * 16),
        ((3, 4, 16), (3, 16, 32), 3 * 4 * 16 * 32),
        ((4, 16), (16, 32), 4 * 16 * 32),
    ],
)
def test_grouped_products_of_any_dtype(left: tuple[int, ...], right: tuple[int, ...], flops: int) -> None:
    """Fakes have a kernel for bfloat16 alone; every expert's rows are multiplied once."""
    ends = None if len(left) == len(right) == 3 else GROUPS
    model = Written(
        lambda m, x: nn.functional.grouped_mm(x, m.weight, offs=ends), weight=nn.Parameter(torch.randn(right))
    )
    program = capture(model, (torch.empty(left),))
    assert (program.method, program.opaque) == ("fake", [])
    assert program.outputs[0].shape == model(torch.randn(left)).shape
    graph = build(program)
    price(graph, program)
    assert graph.cost.flops == flops


def test_an_operator_that_takes_functions_is_what_its_kernel_is_made_of() -> None:
    """Flexible attention; compiled while somebody watches it would fail in each later forward, too."""
    flex = pytest.importorskip("torch.nn.attention.flex_attention").flex_attention

    def attends(m: Any, x: Tensor) -> Tensor:
        heads = m.linear(x).view(1, 4, 2, 8).transpose(1, 2)
        attended: Tensor = flex(heads, heads, heads, score_mod=lambda score, b, h, i, j: score + (i - j))
        return attended.transpose(1, 2).reshape(1, 4, 16)

    model = Written(lambda m, x: x + m.part(x), part=Written(attends, linear=nn.Linear(16, 16)))
    x = torch.randn(1, 4, 16)
    with torch.no_grad():
        before = model(x)
        program = capture(model, (x,))
        assert torch.equal(model(x), before)
    assert not program.opaque
    assert program.outputs[0].shape == (1, 4, 16)
    products = [one for one in program.operators if one.name in ("addmm", "matmul")]
    assert [one.outputs[0].shape for one in products] == [(4, 16), (1, 2, 4, 4), (1, 2, 4, 8)]
