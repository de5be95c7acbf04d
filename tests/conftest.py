"""What every test needs: torchvision beside any PyTorch, and no more threads than the machine has to spare."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from skipgraph.sources.torchvision_operators import declare_missing

if TYPE_CHECKING:
    from collections.abc import Callable

declare_missing()  # before torchvision, timm or segmentation_models_pytorch is imported anywhere
torch.set_num_threads(1)

GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update", action="store_true", help="write the golden files anew instead of comparing with them")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compares a text with the file of that name in tests/golden/, or writes it there with ``--update``."""

    def check(name: str, text: str) -> None:
        path = GOLDEN / name
        if request.config.getoption("--update"):
            path.write_text(text, encoding="utf-8")
        assert path.exists(), f"{path} is missing: run this test with --update, and read what it writes"
        assert text == path.read_text(encoding="utf-8"), f"{path} differs: if it should, run this test with --update"

    return check
