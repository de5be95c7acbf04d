"""What PyTorch calls what an ONNX operator does: one file a family, found by themselves.

What an operator *is* stands in `skipgraph.ops`, for these calls as for all others; here stands how it is spelt.
"""

from __future__ import annotations

import importlib
import pkgutil


def load_families() -> None:
    """Import every module of this package; each registers its converters."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
