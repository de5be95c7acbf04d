from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from skipgraph.errors import SourceError
from skipgraph.sources import load


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "net.pt2"
    program = torch.export.export(torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU()), (torch.zeros(2, 4),))
    torch.export.save(program, path)
    return path


def test_exported_program_brings_its_inputs(exported: Path) -> None:
    source = load(str(exported))
    assert source.args[0].shape == (2, 4)
    assert source.model(*source.args).shape == (2, 4)
    assert source.weights == "file"


@pytest.mark.parametrize("part", [0.0, 0.3, 0.95])
def test_truncated(exported: Path, tmp_path: Path, part: float) -> None:
    content = exported.read_bytes()
    path = tmp_path / "truncated.pt2"
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(SourceError, match="not a whole archive"):
        load(str(path))


def test_archive_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "other.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(SourceError, match="not a whole archive"):
        load(str(path))


class Trap:
    """A pickle that leaves a mark when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("member", ["data/sample_inputs/model.pt", "data/constants/opaque_obj_0"])
def test_nothing_in_an_archive_is_executed(exported: Path, tmp_path: Path, member: str) -> None:
    path, mark = tmp_path / "trap.pt2", tmp_path / "mark"
    trap = tmp_path / "trap"
    if member.endswith(".pt"):
        torch.save(Trap(mark), trap)
    else:
        trap.write_bytes(pickle.dumps(Trap(mark)))
    with zipfile.ZipFile(exported) as old, zipfile.ZipFile(path, "w") as new:
        prefix = old.namelist()[0].split("/")[0]
        for name in old.namelist():
            if name != f"{prefix}/{member}":
                new.writestr(name, old.read(name))
        new.writestr(f"{prefix}/{member}", trap.read_bytes())
    with pytest.raises(SourceError):
        load(str(path))
    assert not mark.exists()


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".safetensors", ".pkl"])
def test_checkpoints_are_no_models(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"net{suffix}"
    torch.save({"weight": torch.zeros(1)}, path)
    with pytest.raises(SourceError, match="not the code of a model") as caught:
        load(str(path))
    assert f"--weights {path}" in caught.value.remedy


@pytest.mark.parametrize("name", ["absent.pt2", "absent.pt", "absent.onnx"])
def test_missing_files(name: str) -> None:
    with pytest.raises(SourceError, match="no such file"):
        load(name)
