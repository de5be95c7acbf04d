"""The recovery loop: it learns without labels, goes on where it stopped, and leaves the teacher alone."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import pytest
import torch

from skipgraph import ConcatToSum, distill
from skipgraph.errors import InputError, UsageError
from skipgraph.rewriting import Rewritten, planned
from tests.compress.test_compress import IMAGE, data, model, output_error

if TYPE_CHECKING:
    from pathlib import Path


def rewritten() -> Rewritten:
    return planned(model("normed"), IMAGE, ConcatToSum(rank=4), execution="separate", calibrate=data())


def test_it_learns_what_the_original_computes() -> None:
    result, teacher, held_out = rewritten(), copy.deepcopy(model("normed")), data(4, seed=7)
    before = output_error(result, model("normed"), held_out)
    losses = distill(model("normed"), result, data(24), epochs=4)
    assert len(losses) == 4
    assert losses[-1] < losses[0]
    assert output_error(result, model("normed"), held_out) < before
    assert not result.model.training
    assert all(
        torch.equal(a, b)
        for a, b in zip(teacher.state_dict().values(), model("normed").state_dict().values(), strict=True)
    )
    assert not model("normed").training
    assert all(parameter.grad is None for parameter in model("normed").parameters())


def test_it_goes_on_where_it_stopped(tmp_path: Path) -> None:
    whole, parts = rewritten(), rewritten()
    losses = distill(model("normed"), whole, data(), epochs=3)
    file = tmp_path / "state.pt"
    told: list[str] = []

    class StoppedError(Exception):
        pass

    def stop(text: str) -> None:
        told.append(text)
        raise StoppedError

    with pytest.raises(StoppedError):
        distill(model("normed"), parts, data(), epochs=3, checkpoint=file, progress=stop)
    assert told[0].startswith("epoch 1 of 3")
    resumed = rewritten()
    assert distill(model("normed"), resumed, data(), epochs=3, checkpoint=file) == pytest.approx(losses)
    for name, tensor in whole.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], tensor)
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]


def test_what_cannot_be_distilled(tmp_path: Path) -> None:
    result = rewritten()
    with pytest.raises(UsageError, match="no training"):
        distill(model("normed"), result, data(), epochs=0)
    with pytest.raises(InputError, match="empty"):
        distill(model("normed"), result, [])
    file = tmp_path / "other.pt"
    torch.save({"model": {}}, file)
    with pytest.raises(UsageError, match="no checkpoint of this model"):
        distill(model("normed"), result, data(), checkpoint=file)
    file.write_bytes(b"no archive")
    with pytest.raises(UsageError, match="no checkpoint of this model"):
        distill(model("normed"), result, data(), checkpoint=file)
    file.unlink()
    before = {name: one.clone() for name, one in result.model.state_dict().items()}
    distill(model("resampled"), planned(model("resampled"), IMAGE, ConcatToSum(rank=3)), data(), checkpoint=file)
    with pytest.raises(UsageError, match="names or shapes"):
        distill(model("normed"), result, data(), checkpoint=file)
    assert all(torch.equal(before[name], one) for name, one in result.model.state_dict().items())
    frozen = rewritten()
    frozen.model.requires_grad_(False)
    with pytest.raises(UsageError, match="may be trained"):
        distill(model("normed"), frozen, data())
    inference = planned(model("normed"), IMAGE, ConcatToSum(), execution="separate", inference=True)
    with pytest.raises(UsageError, match="does not train"):
        distill(model("normed"), inference, data())


def test_a_last_batch_of_one_sample_counts_as_one() -> None:
    """A single sample of a classifier has no spread around its mean: its error is relative to its size."""

    class Pooled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = copy.deepcopy(model("normed"))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.body(x).mean((2, 3))  # type: ignore[no-any-return]

    teacher = Pooled().eval()
    result = planned(teacher, IMAGE, ConcatToSum(rank=4), execution="separate", calibrate=data())
    (loss,) = distill(teacher, result, [*data(), data()[0][:1]])
    assert 0 < loss < 10


def test_more_epochs_go_on_along_a_cosine_of_their_own(tmp_path: Path) -> None:
    file, result = tmp_path / "state.pt", rewritten()
    distill(model("normed"), result, data(), epochs=1, checkpoint=file)
    ended = torch.load(file, weights_only=True)["schedule"]["_last_lr"][0]
    distill(model("normed"), result, data(), epochs=2, checkpoint=file)
    assert ended == pytest.approx(0, abs=1e-12)
    assert torch.load(file, weights_only=True)["schedule"]["_last_lr"][0] == pytest.approx(0, abs=1e-12)
