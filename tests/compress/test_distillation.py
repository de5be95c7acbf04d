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
    inference = planned(model("normed"), IMAGE, ConcatToSum(), execution="separate", inference=True)
    with pytest.raises(UsageError, match="does not train"):
        distill(model("normed"), inference, data())
