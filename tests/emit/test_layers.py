"""Constructors of layers, read off their instances."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from skipgraph.emit.classes import leaf
from skipgraph.emit.literals import literal

LAYERS = """
nn.Linear(3, 4)
nn.Linear(3, 4, bias=False)
nn.Bilinear(3, 4, 5)
nn.Conv2d(3, 64, 3, padding=1, bias=False)
nn.Conv2d(4, 8, (3, 5), stride=(1, 2), dilation=2, groups=4, padding_mode="circular")
nn.Conv1d(3, 4, 3, padding="same")
nn.ConvTranspose2d(3, 4, 2, stride=2)
nn.ConvTranspose3d(4, 4, 3, stride=2, padding=1, output_padding=1, groups=2, bias=False, dilation=2)
nn.BatchNorm2d(4)
nn.BatchNorm1d(4, eps=0.001, momentum=None, affine=False, track_running_stats=False)
nn.GroupNorm(2, 4, affine=False)
nn.LayerNorm(4)
nn.LayerNorm((4, 5), eps=1e-06, bias=False)
nn.RMSNorm(4)
nn.InstanceNorm2d(4, affine=True)
nn.LocalResponseNorm(5, alpha=0.001, k=2.0)
nn.Embedding(10, 4, padding_idx=0)
nn.EmbeddingBag(10, 4, mode="sum")
nn.LSTM(3, 4, num_layers=2, batch_first=True, dropout=0.5, bidirectional=True)
nn.LSTM(3, 4, proj_size=2)
nn.GRU(3, 4, bias=False)
nn.RNN(3, 4, nonlinearity="relu")
nn.MultiheadAttention(4, 2, dropout=0.1, batch_first=True)
nn.MultiheadAttention(4, 2, bias=False, add_bias_kv=True, add_zero_attn=True, kdim=3, vdim=5)
nn.MaxPool2d(2, stride=2)
nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True)
nn.AvgPool2d(3, stride=1, count_include_pad=False)
nn.AdaptiveAvgPool2d(1)
nn.AdaptiveAvgPool2d((None, 7))
nn.LPPool2d(2, 3)
nn.Upsample(scale_factor=2.0, mode="bilinear", align_corners=True)
nn.Upsample(size=(4, 5))
nn.PixelShuffle(2)
nn.ChannelShuffle(2)
nn.Fold((4, 5), 2)
nn.Unfold(2, dilation=2)
nn.ZeroPad2d((1, 2, 3, 4))
nn.ReflectionPad2d(1)
nn.ConstantPad1d((1, 2), 3.5)
nn.ReLU(inplace=True)
nn.LeakyReLU(negative_slope=0.2)
nn.PReLU(num_parameters=4)
nn.GELU(approximate="tanh")
nn.Softmax(dim=1)
nn.Hardtanh(min_val=0.0, max_val=6.0)
nn.Threshold(0.1, 20.0)
nn.Dropout(p=0.1)
nn.Flatten(start_dim=2)
nn.Unflatten(1, (2, 2))
nn.Identity()
nn.CosineSimilarity(dim=2)
nn.GLU(dim=1)
nn.Conv3d(3, 4, (1, 3, 3), padding=(0, 1, 1), padding_mode="replicate")
nn.ConvTranspose1d(3, 4, 4, stride=2, padding=1)
nn.BatchNorm3d(4, momentum=0.01)
nn.SyncBatchNorm(4)
nn.InstanceNorm1d(4)
nn.InstanceNorm3d(4, affine=True, track_running_stats=True)
nn.CrossMapLRN2d(5)
nn.GRU(3, 4, num_layers=2, batch_first=True, bidirectional=True)
nn.LSTMCell(3, 4)
nn.GRUCell(3, 4, bias=False)
nn.RNNCell(3, 4, nonlinearity="relu")
nn.MultiheadAttention(8, 4, batch_first=True)
nn.MaxPool1d(3, stride=3)
nn.MaxPool3d((1, 2, 2), stride=(1, 2, 2))
nn.AvgPool1d(2, stride=2)
nn.AvgPool3d(2, stride=2, divisor_override=3)
nn.AdaptiveMaxPool2d((3, 4))
nn.AdaptiveAvgPool1d(1)
nn.UpsamplingNearest2d(scale_factor=2.0)
nn.UpsamplingBilinear2d(size=(8, 8))
nn.PixelUnshuffle(2)
nn.ReflectionPad3d((1, 1, 0, 0, 2, 2))
nn.ReplicationPad2d((1, 0, 1, 0))
nn.CircularPad2d((1, 1, 0, 0))
nn.ZeroPad1d((2, 0))
nn.ConstantPad3d((1, 1, 1, 1, 0, 0), -1.0)
nn.ELU(alpha=0.5)
nn.CELU(alpha=2.0)
nn.SELU(inplace=True)
nn.SiLU()
nn.Mish()
nn.Hardswish(inplace=True)
nn.Hardsigmoid()
nn.RReLU(lower=0.1, upper=0.2)
nn.ReLU6()
nn.PReLU()
nn.Softplus(beta=2.0)
nn.Softshrink(lambd=0.25)
nn.Softmax2d()
nn.LogSoftmax(dim=-1)
nn.Softmin(dim=1)
nn.Tanh()
nn.Dropout2d(p=0.2)
nn.AlphaDropout(p=0.25)
nn.PairwiseDistance(p=1.0)
"""


def made(text: str) -> nn.Module:
    layer = eval(text, {"nn": nn, "torch": torch})
    assert isinstance(layer, nn.Module)
    return layer


@pytest.mark.parametrize("text", LAYERS.strip().splitlines())
def test_a_layer_is_written_as_it_was_made(text: str) -> None:
    assert leaf("layer", made(text)).text("", lambda _, value: literal(value)) == text


@pytest.mark.parametrize(
    "layer",
    [
        parametrizations.weight_norm(nn.Conv1d(3, 4, 3)),
        parametrizations.weight_norm(nn.Linear(3, 4), dim=1),
        parametrizations.spectral_norm(nn.Conv2d(3, 4, 3), n_power_iterations=2),
    ],
)
def test_a_computed_weight_is_computed_again(layer: nn.Module) -> None:
    again = made(leaf("layer", layer).text("", lambda _, value: literal(value)))
    assert list(again.state_dict()) == list(layer.state_dict())
    again.load_state_dict(layer.state_dict())
    assert torch.equal(again.eval().weight, layer.eval().weight)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.5, "1.5"),
        (float("-inf"), 'float("-inf")'), ("a\"b'c\n", '"a\\"b\'c\\n"'), (True, "True"), ((1,), "(1,)"),
        (torch.Size([2, 3]), "(2, 3)"), ([1, None], "[1, None]"),
        ({"a": 1}, '{"a": 1}'), (torch.float16, "torch.float16"),
        (torch.device("cpu"), 'torch.device("cpu")'), (slice(1, None), "slice(1, None, None)"), (..., "..."),
    ],
)  # fmt: skip
def test_values_are_literals(value: Any, text: str) -> None:
    assert literal(value) == text
    if not isinstance(value, slice):
        assert eval(text, {"torch": torch}) == value
