"""Each in a process of its own: operators cannot be taken back."""

from __future__ import annotations

import subprocess
import sys
import textwrap

PREPARE = """
import torch
from skipgraph.sources.torchvision_operators import declare_missing
"""


def output_of(code: str) -> str:
    return subprocess.check_output([sys.executable, "-c", PREPARE + textwrap.dedent(code)], text=True).strip()


def test_torchvision_imports_whatever_torch_it_was_compiled_for() -> None:
    code = """
    declare_missing()
    import torchvision
    with torch.device("meta"):
        model = torchvision.models.get_model("resnet18")
    print(tuple(model(torch.empty(2, 3, 64, 64, device="meta")).shape))
    """
    assert output_of(code) == "(2, 1000)"


def test_declared_once_and_only_if_the_library_does_not_load() -> None:
    code = """
    torch.ops.load_library = lambda path: None
    print(declare_missing(), hasattr(torch.ops.torchvision, "nms"))
    declare_missing.cache_clear()
    def fail(path): raise OSError("compiled for another torch")
    torch.ops.load_library = fail
    print(declare_missing() is declare_missing(), hasattr(torch.ops.torchvision, "nms"))
    """
    assert output_of(code).splitlines() == ["None False", "True True"]


def test_nothing_to_do_without_torchvision() -> None:
    assert output_of("import sys; sys.modules['torchvision'] = None; print(declare_missing())") == "None"
