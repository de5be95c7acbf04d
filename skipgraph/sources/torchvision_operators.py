"""torchvision's models without torchvision's compiled operators.

The wheel of torchvision is compiled for one build of PyTorch. Beside another one (a CPU build, most often) its library
does not load, and importing torchvision, or anything that imports it, then fails on an operator that is only declared
in that library. Nothing is computed here, so a declaration is all that is needed.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

import torch

# What torchvision registers shape functions for when it is imported, whether its library was loaded or not.
_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


@cache
def declare_missing() -> torch.library.Library | None:
    """Declare the operators that ``import torchvision`` asks for, if its own library does not load.

    Returns
    -------
    torch.library.Library or None
        The declarations, which last as long as this object; None if there was no need.
    """
    package = importlib.util.find_spec("torchvision")
    if package is None or not package.submodule_search_locations:
        return None
    for compiled in Path(package.submodule_search_locations[0]).glob("_C.*"):
        try:
            torch.ops.load_library(compiled)
        except (ImportError, OSError):
            continue
        return None
    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in _SCHEMAS:
        if not hasattr(torch.ops.torchvision, schema.partition("(")[0]):
            library.define(schema)
    return library
