"""Calibration data in files and by name: what is read, and what is refused without a traceback."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from skipgraph.compress.data import Calibration, from_text, input_names
from skipgraph.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Masked(nn.Module):
    """Two inputs of one shape, which only their names tell apart."""

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        return image * mask


EXAMPLE = ((torch.zeros(1, 4), torch.zeros(1, 4)), {})
NAMES = ["image", "mask"]
IMAGE, MASK = np.full((40, 4), 1.0, np.float32), np.full((40, 4), 2.0, np.float32)


def read(data: Any) -> list[tuple[Any, ...]]:
    return [args for args, _ in Calibration(data, EXAMPLE, NAMES)]


def is_right(batches: list[tuple[Any, ...]]) -> bool:
    return all(bool((image == 1).all()) and bool((mask == 2).all()) for image, mask in batches)


def test_names_are_those_of_the_forward() -> None:
    assert input_names(Masked()) == NAMES


@pytest.mark.parametrize("named", [True, False])
def test_arrays_are_taken_by_name_or_in_order(named: bool, tmp_path: Path) -> None:
    path = tmp_path / "inputs.npz"
    if named:
        np.savez(path, mask=MASK, label=np.arange(3), name=np.array(["a"]), image=IMAGE)
    else:
        np.savez(path, IMAGE, MASK)
    batches = read(from_text(str(path), EXAMPLE, NAMES))
    assert [len(image) for image, _ in batches] == [32, 8]
    assert is_right(batches)


def test_dicts_are_read_by_name() -> None:
    batch = {"mask": torch.from_numpy(MASK), "image": torch.from_numpy(IMAGE)}
    assert is_right(read([batch, {**batch, "label": torch.zeros(40)}]))
    with pytest.raises(InputError, match="has mask, picture, where the model takes image, mask"):
        read([{"mask": batch["mask"], "picture": batch["image"]}])


def test_other_byte_orders_are_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "big.npz", image=IMAGE.astype(">f4"), mask=MASK.astype(">f8"))
    assert is_right(read(from_text(str(tmp_path / "big.npz"), EXAMPLE, NAMES)))


def cut_off(path: Path) -> None:
    np.savez(path, image=IMAGE, mask=MASK)
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize(
    ("name", "write", "words"),
    [
        ("text.npz", lambda path: np.savez(path, image=IMAGE, mask=np.array(["a"] * 40)), "no array of numbers"),
        ("scalar.npz", lambda path: np.savez(path, image=IMAGE, mask=np.array(2.0)), "different numbers of samples"),
        ("object.npz", lambda path: np.savez(path, image=IMAGE, mask=np.array([{}] * 40)), "cannot be read as numpy"),
        ("empty.npz", lambda path: path.write_bytes(b""), "cannot be read as numpy data"),
        ("cut.npz", cut_off, "cannot be read as numpy data"),
        ("torch.pt", lambda path: torch.save(torch.zeros(3), path), "cannot be read as numpy data"),
        ("other.npz", lambda path: np.savez(path, picture=IMAGE, mask=MASK), "has picture, mask"),
        ("short.npz", lambda path: np.savez(path, image=IMAGE, mask=MASK[:3]), "different numbers of samples"),
    ],
)
def test_files_that_are_refused(name: str, write: Callable[[Path], object], words: str, tmp_path: Path) -> None:
    write(tmp_path / name)
    with pytest.raises(InputError, match=words):
        read(from_text(str(tmp_path / name), EXAMPLE, NAMES))


def test_loaders_lie_in_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_calibration.py").write_text(
        "import torch\nbatches = [(torch.ones(2, 4), 2 * torch.ones(2, 4))]\ndef broken():\n    raise KeyError('x')\n"
    )
    assert is_right(read(from_text("my_calibration:batches", EXAMPLE, NAMES)))
    for name, words in (("broken", "KeyError"), ("absent", "AttributeError")):
        with pytest.raises(InputError, match=words):
            from_text(f"my_calibration:{name}", EXAMPLE, NAMES)
    with pytest.raises(InputError, match="ModuleNotFoundError"):
        from_text("no_such_module:batches", EXAMPLE, NAMES)


def test_a_batch_without_samples() -> None:
    with pytest.raises(InputError, match="batch 1 of the calibration data has no samples"):
        read([(torch.ones(2, 4), torch.ones(2, 4)), (torch.ones(0, 4), torch.ones(0, 4))])
