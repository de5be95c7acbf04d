"""Every architecture of fixtures/, written out: the same numbers, tensors and memory."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from torch import Tensor

from skipgraph.capture.trees import map_tensors
from skipgraph.emit.peaks import observed
from tests.emit.writing import Alone, assert_same_runs, assert_same_state, split, write
from tests.helpers import fixtures
from tests.helpers.rerun import redrawn

EVERY = pytest.mark.parametrize("name", fixtures.names())


@cache
def alone(name: str) -> Alone:
    fixture = fixtures.load(name)
    torch.manual_seed(0)
    with TemporaryDirectory() as folder:
        return write(redrawn(fixture.model_class()), fixture.example_inputs, Path(folder))


@cache
def small(name: str) -> Any:
    """Example inputs with images of a quarter of the size, where they are large."""

    def smaller(tensor: Tensor) -> Tensor:
        return tensor[..., :64, :64] if tensor.dim() == 4 and tensor.shape[-1] > 64 else tensor

    inputs = fixtures.load(name).example_inputs
    if name == "unet_crop":  # its valid convolutions need the whole
        return inputs
    if isinstance(inputs, dict):
        return {key: smaller(tensor) for key, tensor in inputs.items()}
    return tuple(map(smaller, inputs))


@EVERY
def test_the_same_keys_in_the_same_order(name: str) -> None:
    assert_same_state(alone(name))


@EVERY
def test_the_same_outputs_gradients_and_buffers_in_both_modes(name: str) -> None:
    assert_same_runs(alone(name), small(name))


@EVERY
def test_the_same_at_another_batch_size(name: str) -> None:
    batch = map_tensors(lambda tensor: torch.cat([tensor, tensor.flip(-1), tensor]), small(name))
    assert_same_runs(alone(name), batch)


@EVERY
def test_nothing_is_held_longer_than_in_the_graph(name: str) -> None:
    inputs = split(fixtures.load(name).example_inputs)
    emitted, flat = (observed(model.eval(), inputs).peak for model in (alone(name).model, alone(name).captured))
    assert emitted == flat


@EVERY
def test_the_example_inputs_are_like_those_given(name: str) -> None:
    given, made = fixtures.load(name).example_inputs, alone(name).names["example_inputs"]()
    if isinstance(given, dict):
        assert list(made) == list(given)
        given, made = tuple(given.values()), tuple(made.values())
    assert [(one.shape, one.dtype) for one in made] == [(one.shape, one.dtype) for one in given]
