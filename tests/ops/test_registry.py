"""What is known of operators: said once, and consistent with itself."""

from __future__ import annotations

import pytest

from skipgraph.ops import UNKNOWN, Kind, facts_of, register, registered


def test_an_operator_is_registered_once() -> None:
    with pytest.raises(ValueError, match="'cat' are registered twice"):
        register("cat", kind=Kind.CONCAT)
    assert facts_of("cat").kind is Kind.CONCAT


def test_a_new_operator_takes_one_call() -> None:
    name = "operator_of_a_test"
    assert facts_of(name) is UNKNOWN
    register(name, kind=Kind.ACTIVATION, as_name="tested")
    assert (facts_of(name).name, facts_of(name).kind) == ("tested", Kind.ACTIVATION)
    assert name in registered()


def test_the_table_is_handed_out_as_a_copy() -> None:
    registered().clear()
    assert facts_of("add").kind is Kind.SUM


@pytest.mark.parametrize("name", sorted(name for name, facts in registered().items() if facts.expands))
def test_steps_of_fused_operators_are_known(name: str) -> None:
    steps = facts_of(name).expands
    for number, (step, places) in enumerate(steps):
        assert facts_of(step) is not UNKNOWN
        assert not facts_of(step).expands
        assert all(-number <= place for place in places)  # an earlier step, or an operand
    assert len(steps) > 1


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (Kind.LAYER, "convolution _fft_r2c"),
        (Kind.MATMUL, "mm bmm addmm baddbmm matmul"),
        (Kind.ACTIVATION, "relu gelu silu tanh hardswish _log_softmax"),
        (Kind.GATE, "sigmoid hardsigmoid _softmax"),
        (Kind.NORM, "native_batch_norm native_layer_norm native_group_norm"),
        (Kind.POOL, "max_pool2d_with_indices avg_pool2d _adaptive_avg_pool2d"),
        (Kind.RESAMPLE, "upsample_nearest2d upsample_bilinear2d pixel_shuffle"),
        (Kind.SLICE, "slice select split split_with_sizes unbind"),
        (Kind.VIEW, "view permute transpose t squeeze unsqueeze"),
        (Kind.LINEAR_MAP, "neg clone _to_copy native_dropout"),
        (Kind.PAD, "constant_pad_nd reflection_pad2d"),
        (Kind.CREATE, "arange zeros_like rand"),
    ],
)
def test_kinds_of_common_operators(kind: Kind, names: str) -> None:
    assert {facts_of(name).kind for name in names.split()} == {kind}


def test_views_and_creation_are_free() -> None:
    free = {facts.kind for facts in registered().values() if facts.free}
    assert not free & {Kind.LAYER, Kind.MATMUL, Kind.NORM, Kind.SUM, Kind.CONCAT, Kind.ATTENTION}
    assert all(facts.free for facts in registered().values() if facts.kind in (Kind.VIEW, Kind.SLICE, Kind.CREATE))


def test_what_is_channel_wise_distributes_over_a_concat() -> None:
    known = {name for name, facts in registered().items() if facts.distributes}
    assert {"relu", "native_batch_norm", "max_pool2d_with_indices", "upsample_nearest2d", "constant_pad_nd"} <= known
    assert not known & {"convolution", "native_layer_norm", "native_group_norm", "_softmax", "glu", "add"}
