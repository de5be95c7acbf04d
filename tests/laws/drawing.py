"""How examples are drawn: few, small, and the same ones in each run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

LAW = settings(
    deadline=None,
    max_examples=12,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)

CONVOLUTIONS: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, Any] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
DTYPES = st.sampled_from([torch.float32, torch.float64, torch.bfloat16])
WIDTHS = st.lists(st.integers(1, 4), min_size=2, max_size=5)


def image(channels: int, rank: int = 2, size: int = 6, batch: int = 2) -> Tensor:
    """(N, C, …) with numbers."""
    return torch.rand(batch, channels, *[size] * rank)


def branches(widths: list[int], rank: int = 2) -> list[nn.Module]:
    """One convolution an operand, of three channels."""
    return [CONVOLUTIONS[rank](3, width, 1) for width in widths]
