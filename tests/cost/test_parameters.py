"""Parameters, each counted once, where it is first read."""

from __future__ import annotations

import torch
from torch import nn

from tests.helpers.pricing import priced
from tests.helpers.tracing import Written

TOKENS = torch.empty(3, 7, 12)


def parameters(model: nn.Module, *inputs: torch.Tensor) -> dict[str, int]:
    graph = priced(model, *inputs)
    return {node: data["parameters"] for node, data in graph.nodes(data=True) if data["parameters"]}


def test_each_layer_has_its_own() -> None:
    model = nn.Sequential(nn.Linear(12, 5), nn.ReLU(), nn.LayerNorm(5))
    assert parameters(model, TOKENS) == {"0": 12 * 5 + 5, "2": 10}


def test_a_shared_layer_is_counted_at_its_first_call() -> None:
    model = Written(lambda self, x: self.layer(self.layer(x)), layer=nn.Linear(12, 12))
    found = parameters(model, TOKENS)
    assert found == {"layer": 12 * 12 + 12}
    assert priced(model, TOKENS).cost.parameters == 12 * 12 + 12


def test_tied_weights_count_once() -> None:
    embedding, head = nn.Embedding(20, 12), nn.Linear(12, 20, bias=False)
    head.weight = embedding.weight
    model = Written(lambda self, ids: self.head(self.embedding(ids).relu()), embedding=embedding, head=head)
    graph = priced(model, torch.zeros(3, 7, dtype=torch.int64))
    assert graph.cost.parameters == 20 * 12
    assert graph.cost.parameter_bytes == 4 * 20 * 12
    assert graph.nodes["head"]["parameters"] in (0, 20 * 12)  # the lookup is no node: its table is data of no input


def test_a_weight_that_is_copied_first_belongs_to_who_reads_the_copy() -> None:
    model = Written(lambda self, x: x @ self.weight.clone().t(), weight=nn.Parameter(torch.ones(5, 12)))
    assert list(parameters(model, TOKENS).values()) == [60]


def test_a_computed_weight_belongs_to_what_computes_it() -> None:
    model = Written(lambda self, x: x @ self.weight.exp().t(), weight=nn.Parameter(torch.ones(5, 12)))
    assert parameters(model, TOKENS) == {"exp": 60}


def test_unused_parameters_are_the_model_s_alone() -> None:
    model = Written(lambda self, x: self.used(x), used=nn.Linear(12, 5), unused=nn.Linear(12, 5))
    graph = priced(model, TOKENS)
    assert graph.cost.parameters == 2 * (12 * 5 + 5)
    assert sum(data["parameters"] for _, data in graph.nodes(data=True)) == 12 * 5 + 5
