from __future__ import annotations

import pytest

from skipgraph.errors import NothingToRewriteError
from skipgraph.scan import chosen, read

SPECS = ["timm:vgg11", "timm:resnet18", "nets/vgg.py:Net(width=8)", "timm:vgg11", "nets/other.py"]


@pytest.mark.parametrize(
    ("only", "skip", "expected"),
    [
        ([], [], ["timm:vgg11", "timm:resnet18", "nets/vgg.py:Net(width=8)", "nets/other.py"]),
        (["timm:*"], [], ["timm:vgg11", "timm:resnet18"]),
        (["vgg*", "Net*"], [], ["timm:vgg11", "nets/vgg.py:Net(width=8)"]),
        ([], ["timm:*", "nets/other.py"], ["nets/vgg.py:Net(width=8)"]),
        (["timm:*"], ["resnet18"], ["timm:vgg11"]),
    ],
)
def test_patterns(only: list[str], skip: list[str], expected: list[str]) -> None:
    assert chosen(SPECS, only, skip) == expected


@pytest.mark.parametrize(("only", "skip"), [(["vgg"], []), ([], ["VGG*"]), (["vgg*", "densenet*"], [])])
def test_a_pattern_that_matches_none(only: list[str], skip: list[str]) -> None:
    with pytest.raises(NothingToRewriteError, match="no model matches") as caught:
        chosen(SPECS, only, skip)
    assert caught.value.exit_code == 5


def test_nothing_is_left() -> None:
    with pytest.raises(NothingToRewriteError, match="leave no model"):
        chosen(SPECS, ["vgg11"], ["timm:*"])
    assert chosen([]) == []


def test_specs_of_a_file() -> None:
    assert read("") == []
    assert read("# one a line\r\n timm:vgg11 \n\n#timm:vgg13\nx.py:f(a='# b')") == ["timm:vgg11", "x.py:f(a='# b')"]
