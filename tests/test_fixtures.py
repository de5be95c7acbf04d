"""The architectures of fixtures/: they run, they train, and what their docstrings count is what is found in them."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import pytest
import torch

import skipgraph
from tests.helpers import fixtures

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.helpers.fixtures import Fixture

REQUIRED = {
    "attention_unet",
    "densenet",
    "dla",
    "dual_path",
    "fcn8s",
    "fpn",
    "highway",
    "inception",
    "lstm_unrolled",
    "resnet",
    "scalar_gates",
    "squeeze_excitation",
    "stochastic_depth",
    "transformer_decoder",
    "transformer_encoder",
    "unet",
    "unet_crop",
    "unet_plus_plus",
    "unet_sum",
    "uvit",
    "vgg",
    "wavenet",
}

# Narrower models where the default one would make the numeric tests slow.
QUICK_ARGUMENTS: dict[str, dict[str, int]] = {"unet": {"width": 8}}


@pytest.fixture(params=fixtures.names())
def fixture(request: pytest.FixtureRequest) -> Fixture:
    return fixtures.load(request.param)


@pytest.fixture
def model(fixture: Fixture) -> Iterator[torch.nn.Module]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield fixture.model_class(**QUICK_ARGUMENTS.get(fixture.name, {}))
    torch.set_num_threads(threads)


def test_every_architecture_is_there() -> None:
    assert set(fixtures.names()) >= REQUIRED


def test_exports_one_module_that_needs_no_arguments(fixture: Fixture) -> None:
    assert len(fixture.exported) == 1
    with torch.device("meta"):
        assert isinstance(fixture.model_class(), torch.nn.Module)


def test_example_is_one_sample(fixture: Fixture) -> None:
    inputs = fixture.example_inputs
    tensors = list(inputs.values()) if isinstance(inputs, dict) else list(inputs)
    assert tensors
    assert all(tensor.shape[0] == 1 for tensor in tensors)


@torch.no_grad()
def test_samples_of_a_batch_are_independent_and_results_repeatable(fixture: Fixture, model: torch.nn.Module) -> None:
    model.eval()
    alone = fixture.run(model)
    assert alone.shape[0] == 1
    assert alone.isfinite().all()
    assert torch.equal(alone, fixture.run(model))
    together = fixture.run(model, batch=3)
    assert together.shape == (3, *alone.shape[1:])
    torch.testing.assert_close(together[:1], alone, rtol=1e-3, atol=1e-4)


def test_every_parameter_gets_a_gradient(fixture: Fixture, model: torch.nn.Module) -> None:
    model.train()
    fixture.run(model, batch=3).square().mean().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert [name for name, gradient in gradients.items() if gradient is None] == []
    assert [name for name, gradient in gradients.items() if not gradient.isfinite().all()] == []
    assert any(gradient.any() for gradient in gradients.values())


def test_docstring_counts_once_and_adds_up(fixture: Fixture) -> None:
    assert len(fixture.documented) == 1
    counts = fixture.counts
    assert counts["add"] + counts["concat"] + counts["gated"] == counts["skips"]
    assert counts["short"] + counts["long"] == counts["skips"]
    assert counts["identity"] + counts["projected"] == counts["skips"]
    assert counts["edges"] >= counts["skips"]


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_finds_what_the_docstring_counts(fixture: Fixture, train: bool) -> None:
    graph = skipgraph.trace(fixture.model_class(), fixture.example_inputs, train=train)
    assert asdict(graph.counts) == fixture.counts
