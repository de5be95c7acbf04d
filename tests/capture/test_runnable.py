"""A captured graph that runs again: the original's outputs, gradients and state dict, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from skipgraph.capture.runnable import runnable
from skipgraph.capture.trees import map_tensors
from tests.helpers import fixtures
from tests.helpers.rerun import assert_names_kept, assert_runs_alike, image, redrawn

# -- fixtures --------------------------------------------------------------------------------------------------------

NARROW = {"width": 8}
SMALLER: dict[str, dict[str, Any]] = {
    "attention_unet": NARROW, "conditioned_unet": NARROW, "hrnet": NARROW, "unet": NARROW, "unet3d": {"width": 4},
    "unet_crop": NARROW, "unet_plus_plus": NARROW, "unet_sum": NARROW,
}  # fmt: skip
SIZES = {"unet": 64, "unet_crop": 204}


@pytest.mark.parametrize("name", fixtures.names())
def test_fixture_in_both_modes_at_other_batches_and_sizes(name: str) -> None:
    fixture = fixtures.load(name)
    torch.manual_seed(1)
    model = redrawn(fixture.model_class(**SMALLER.get(name, {})))
    named = fixture.example_inputs if isinstance(fixture.example_inputs, dict) else {}
    inputs = tuple(named.values() or fixture.example_inputs)
    if name in SIZES:
        inputs = tuple(x[..., : SIZES[name], : SIZES[name]] for x in inputs)
    captured = runnable(model, () if named else inputs, dict(zip(named, inputs, strict=True)) if named else {})
    assert_names_kept(captured, model)
    for training, batch in ((False, 1), (False, 3), (True, 2)):
        many = map_tensors(lambda x, batch=batch: torch.cat([x, *[x.flip(-1)] * (batch - 1)]), inputs)
        assert_runs_alike(captured, model, many, training=training)
    for change in (32, 5):
        larger = map_tensors(lambda x, change=change: F.pad(x, (0, change)) if x.ndim > 3 else x, inputs)
        try:
            theirs = model.eval()(*larger)
        except (RuntimeError, AssertionError):
            continue  # the original does not run at this size
        try:
            ours = captured.eval()(*larger)
        except AssertionError as error:
            if "captured for image.size(3)" not in str(error):
                raise
        else:
            assert torch.equal(ours, theirs)


# -- public models ---------------------------------------------------------------------------------------------------


def torchvision_model(name: str, **settings: Any) -> nn.Module:
    return pytest.importorskip("torchvision").models.get_model(name, weights=None, num_classes=4, **settings)


def timm_model(name: str, **settings: Any) -> nn.Module:
    return pytest.importorskip("timm").create_model(name, num_classes=4, **settings)


def swin() -> nn.Module:
    return pytest.importorskip("torchvision").models.SwinTransformer([4, 4], 16, [1, 1], [2, 2], [4, 4], num_classes=4)


@dataclass(frozen=True)
class Public:
    build: Callable[[], nn.Module]
    size: tuple[int, int]
    other: tuple[int, int]
    one_graph: bool = True


PUBLIC = {
    "resnet18": Public(lambda: torchvision_model("resnet18"), (64, 64), (96, 40)),
    "mobilenet": Public(lambda: torchvision_model("mobilenet_v3_small"), (64, 64), (70, 40)),
    "googlenet": Public(
        lambda: torchvision_model("googlenet", init_weights=False), (64, 64), (96, 64), one_graph=False
    ),
    "swin": Public(swin, (64, 64), (72, 96), one_graph=False),
    "fcn": Public(lambda: torchvision_model("fcn_resnet50", weights_backbone=None, aux_loss=True), (48, 40), (33, 56)),
    "drop path": Public(lambda: timm_model("convnext_atto", drop_path_rate=0.2), (64, 64), (96, 64), one_graph=False),
}


@pytest.mark.parametrize("name", PUBLIC)
def test_public_model_at_another_batch_and_size(name: str) -> None:
    public = PUBLIC[name]
    model = redrawn(public.build())
    captured = runnable(model, (image(2, 3, *public.size),))
    assert_names_kept(captured, model)
    assert (captured.graphs[False] is captured.graphs[True]) == public.one_graph
    for training in (False, True):
        assert_runs_alike(captured, model, (image(2, 3, *public.size),), training=training)
        assert_runs_alike(captured, model, (image(3, 3, *public.other),), training=training)


def test_a_fixed_image_size_is_asserted() -> None:
    model = timm_model("vit_tiny_patch16_224", img_size=32, depth=1)
    captured = runnable(model, (image(1, 3, 32, 32),))
    assert torch.equal(captured.eval()(image(3, 3, 32, 32)), model.eval()(image(3, 3, 32, 32)))
    with pytest.raises(
        AssertionError, match=r"captured for x\.size\(2\) == 32, and other sizes cannot be carried over"
    ):
        captured(image(1, 3, 48, 32))


TINY = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16, "vocab_size": 50}


@pytest.mark.parametrize("kind", ["Bert", "GPT2"])
def test_language_model_keeps_its_output_class_and_takes_other_lengths(kind: str) -> None:
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{kind}Config")(**TINY, bos_token_id=1, eos_token_id=1)
    model = redrawn(getattr(transformers, f"{kind}Model")(config))
    ids = torch.arange(24).view(2, 12)
    captured = runnable(model, (), {"attention_mask": torch.ones_like(ids), "input_ids": ids})
    for given in (ids, torch.arange(45).view(3, 15)):
        inputs = {"input_ids": given, "attention_mask": torch.ones_like(given)}
        for training in (False, True):
            assert_runs_alike(captured, model, inputs, training=training)
    if kind == "GPT2":  # the cache of keys and values is an object of its own
        ours, theirs = (one.eval()(**inputs).past_key_values for one in (captured, model))
        assert type(ours) is type(theirs)
        assert torch.equal(ours.layers[1].keys, theirs.layers[1].keys)
        assert ours.get_seq_length() == theirs.get_seq_length()
