"""What the commands that rewrite have in common: a model with data, and the directory that comes of it."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skipgraph.sources import Source


def load_source(
    spec: str,
    inputs: list[str] | None,
    weights: Path | None,
    pretrained: bool,
    device: str,
    dtype: str | None,
    seed: int,
) -> Source:
    """The model that a SPEC names, with data, and its inputs with numbers in them.

    Raises
    ------
    SkipgraphError
        See `skipgraph.sources.load`.
    """
    import torch

    from skipgraph.capture.trees import map_tensors
    from skipgraph.sources import load
    from skipgraph.sources.inputs import parse_dtype

    torch.manual_seed(seed)  # a file may draw its example inputs where it is imported
    source = load(
        spec,
        inputs=inputs or [],
        weights=weights,
        pretrained=pretrained,
        device=device,
        dtype=parse_dtype(dtype) if dtype is not None else None,
        seed=seed,
    )
    generator = torch.Generator().manual_seed(seed)

    def drawn(tensor: Any) -> Any:
        if tensor.device.type != "meta":
            return tensor.to(device)
        if tensor.is_floating_point():
            return torch.randn(tensor.shape, generator=generator).to(device, tensor.dtype)
        return torch.zeros(tensor.shape, dtype=tensor.dtype, device=device)

    source.args, source.kwargs = map_tensors(drawn, (source.args, source.kwargs))
    return source


def example(source: Source) -> Any:
    """The inputs of a source as `skipgraph.rewrite` takes them."""
    return dict(source.kwargs) if source.kwargs and not source.args else tuple(source.args)


def show(data: dict[str, Any], *, as_json: bool) -> None:
    """The report on standard output."""
    from skipgraph.report.changes import terminal

    if as_json:
        print(json.dumps(data, indent=1, ensure_ascii=False))
        return
    seen = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if seen else None
    sys.stdout.write(terminal(data, color=seen and "NO_COLOR" not in os.environ, width=width))


def calibration(text: str, source: Any) -> Any:
    """What --calibrate names."""
    from skipgraph.compress.data import from_text, input_names

    return from_text(text, (tuple(source.args), dict(source.kwargs)), input_names(source.model))
