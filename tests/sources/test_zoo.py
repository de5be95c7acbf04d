from __future__ import annotations

import importlib.util

import pytest

from skipgraph.errors import MissingDependencyError, SourceError
from skipgraph.sources import kinds, load, zoo


@pytest.mark.parametrize(
    ("spec", "name", "shapes"),
    [
        ("timm:resnet18", "ResNet", [(1, 3, 224, 224)]),
        ("timm:tf_efficientnet_b3", "EfficientNet", [(1, 3, 300, 300)]),
        ("timm:vit_tiny_patch16_224(img_size=96, depth=2)", "VisionTransformer", [(1, 3, 96, 96)]),
        ("torchvision:resnet18(num_classes=7)", "ResNet", [(1, 3, 224, 224)]),
        ("torchvision:efficientnet_b1", "EfficientNet", [(1, 3, 240, 240)]),
        ("torchvision:fcn_resnet50", "FCN", [(1, 3, 520, 520)]),
        ("torchvision:r3d_18", "VideoResNet", [(1, 3, 16, 112, 112)]),
        ("torchvision:raft_small", "RAFT", [(1, 3, 224, 224)] * 2),
        ("torchvision:vit_b_16(image_size=64)", "VisionTransformer", [(1, 3, 64, 64)]),
    ],
)
def test_models_come_with_their_own_size(spec: str, name: str, shapes: list[tuple[int, ...]]) -> None:
    source = load(spec)
    assert type(source.model).__name__ == name
    assert [tuple(tensor.shape) for tensor in source.args] == shapes
    assert source.on_meta
    assert source.weights == "random"


def test_detection_takes_a_list_of_images() -> None:
    (images,) = load("torchvision:fasterrcnn_resnet50_fpn").args
    assert [tuple(image.shape) for image in images] == [(3, 224, 224)]


def test_arguments_reach_the_builder() -> None:
    assert load("torchvision:resnet18(num_classes=7)").model.fc.out_features == 7


@pytest.mark.parametrize("spec", ["timm:resnet18x", "torchvision:resnet18x"])
def test_unknown_name_suggests_near_ones(spec: str) -> None:
    with pytest.raises(SourceError, match="has no model 'resnet18x'") as caught:
        load(spec)
    assert "resnet18" in caught.value.remedy


def test_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    present = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "timm" else present(name))
    with pytest.raises(MissingDependencyError) as caught:
        load("timm:resnet18")
    assert 'pip install "skipgraph[timm]"' in caught.value.remedy


def test_library_that_does_not_import_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise RuntimeError("operator does not exist")

    monkeypatch.setattr(zoo.importlib, "import_module", broken)
    with pytest.raises(Exception, match="importing timm failed: .*operator does not exist"):
        load("timm:resnet18")


def test_no_model_lists_every_form() -> None:
    with pytest.raises(SourceError) as caught:
        load("resnet18")
    assert all(kind.form in caught.value.remedy for kind in kinds())
