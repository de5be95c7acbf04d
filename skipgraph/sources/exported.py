"""Files: an exported program (``.pt2``) is read; checkpoints and pickles are refused.

Nothing in a file is allowed to run code when it is read.
"""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import torch

from skipgraph.errors import SkipgraphError, SourceError
from skipgraph.silence import silent
from skipgraph.sources.registry import Example, Kind, Recipe, register
from skipgraph.sources.user_code import described

_FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
# Members of an archive that torch.export would unpickle, or load as native code.
_UNSAFE = re.compile(r"(custom_obj|opaque_obj)_|.*\.(so|dll|dylib|pyd)$")


def _pt2_recipe(match: re.Match[str], pretrained: bool) -> Recipe:
    path = _existing(match)
    if pretrained:
        raise SourceError(f"{path} has no pretrained weights but its own", "Leave --pretrained out.")
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError) as error:
        raise _damaged(path, str(error)) from None
    if damaged is not None:
        raise _damaged(path, f"its member {damaged} is broken")
    unsafe = [member for member in members if _UNSAFE.match(PurePosixPath(member).name)]
    if unsafe:
        raise SourceError(
            f"{path} is refused: its member {unsafe[0]} would run code when it is loaded",
            "Export a model that is made of tensors alone, by torch.export.save.",
        )
    program = _load(path)
    module = program.module()
    # These only say that the mode cannot be changed, and would stop whoever wants to make sure of it.
    for switch in ("train", "eval"):
        module.__dict__.pop(switch, None)

    def example(model: torch.nn.Module) -> Example | None:
        example: Example | None = program.example_inputs
        return example

    return Recipe(build=lambda: module, example=example, weights="file", ready=True, fixed_mode=True)


def _load(path: Path) -> torch.export.ExportedProgram:
    try:
        with _weights_only():
            return torch.export.load(path)
    except SkipgraphError:
        raise
    except Exception as error:  # whatever a broken or foreign archive provokes
        raise _damaged(path, described(error).splitlines()[0]) from error


@contextmanager
def _weights_only() -> Iterator[None]:
    """Everything that torch.load reads in this block is read with weights_only=True; torch.export's log is quiet."""
    before = os.environ.get(_FORCE)
    os.environ[_FORCE] = "1"
    try:
        with silent("torch.export"):
            yield
    finally:
        if before is None:
            del os.environ[_FORCE]
        else:
            os.environ[_FORCE] = before


def _existing(match: re.Match[str]) -> Path:
    path = Path(match["path"])
    if not path.is_file():
        raise SourceError(f"no such file: {path}", "Check the path.")
    return path


def _damaged(path: Path, reason: str) -> SourceError:
    return SourceError(
        f"{path} is not a whole archive of torch.export: {reason}", "Write it again, by torch.export.save(program, …)."
    )


def _checkpoint_recipe(match: re.Match[str], pretrained: bool) -> Recipe:
    path = _existing(match)
    raise SourceError(
        f"{path} holds weights or a pickle, not the code of a model",
        f"Give the model file and --weights: skipgraph inspect path/model.py --weights {path}",
    )


register(Kind("exported program", re.compile(r"(?P<path>.+\.pt2)"), _pt2_recipe, "file.pt2"))
register(
    Kind(
        "checkpoint",
        re.compile(r"(?P<path>.+\.(?:pt|pth|bin|ckpt|pkl|pickle|safetensors))", re.IGNORECASE),
        _checkpoint_recipe,
    )
)
