from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch

from skipgraph.errors import WeightsError
from skipgraph.sources.weights import load_weights


class Tied(torch.nn.Module):
    """The last layer's weight is the first's; a second layer has its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(4, 4, bias=False)
        self.second = torch.nn.Linear(4, 4)
        self.last = torch.nn.Linear(4, 4, bias=False)
        self.last.weight = self.first.weight


def on_meta() -> Tied:
    with torch.device("meta"):
        return Tied()


@pytest.fixture
def trained() -> Tied:
    return Tied()


def test_values_arrive(trained: Tied, tmp_path: Path) -> None:
    torch.save(trained.state_dict(), tmp_path / "net.pt")
    model = Tied()
    load_weights(model, tmp_path / "net.pt")
    assert torch.equal(model.second.weight, trained.second.weight)
    assert model.last.weight is model.first.weight


@pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict", "model"])
def test_wrapped_and_prefixed(trained: Tied, tmp_path: Path, wrapper: str) -> None:
    state = {f"module.{key}": value for key, value in trained.state_dict().items()}
    torch.save({wrapper: state, "epoch": 3}, tmp_path / "net.pth")
    model = Tied()
    load_weights(model, tmp_path / "net.pth")
    assert torch.equal(model.second.bias, trained.second.bias)


def test_safetensors_stores_tied_weights_once(trained: Tied, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    safetensors.torch.save_model(trained, str(path))
    model = Tied()
    load_weights(model, path)
    assert torch.equal(model.last.weight, trained.first.weight)
    load_weights(on_meta(), path)


def test_meta_model_stays_on_meta(trained: Tied, tmp_path: Path) -> None:
    torch.save(trained.state_dict(), tmp_path / "net.pt")
    model = on_meta()
    load_weights(model, tmp_path / "net.pt")
    assert model.second.weight.is_meta


@pytest.mark.parametrize("make", [Tied, on_meta])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_misfit_lists_keys(trained: Tied, tmp_path: Path, make, suffix: str) -> None:
    def refused(state: dict[str, torch.Tensor]) -> str:
        path = tmp_path / f"net{suffix}"
        if suffix == ".pt":
            torch.save(state, path)
        else:
            safetensors.torch.save_file({key: value.clone() for key, value in state.items()}, path)
        with pytest.raises(WeightsError, match="do not fit Tied") as caught:
            load_weights(make(), path)
        return caught.value.message

    state = dict(trained.state_dict())
    assert "1 missing: second.bias" in refused({key: state[key] for key in state if key != "second.bias"})
    many = {f"more.{index}": torch.zeros(1) for index in range(5)}
    assert "5 unexpected: more.0, more.1, more.2, and 2 more" in refused({**state, **many})
    shape = refused({**state, "second.bias": torch.zeros(9)})
    assert "1 of another shape" in shape
    assert "second.bias" in shape


class Trap:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)


def test_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    path, mark = tmp_path / "net.pt", tmp_path / "mark"
    torch.save({"state_dict": Trap(mark)}, path)
    with pytest.raises(WeightsError, match="is refused") as caught:
        load_weights(Tied(), path)
    assert "torch.save(model.state_dict()" in caught.value.remedy
    assert not mark.exists()


def test_whole_module_is_refused(trained: Tied, tmp_path: Path) -> None:
    torch.save(trained, tmp_path / "net.pt")
    with pytest.raises(WeightsError, match="is refused"):
        load_weights(Tied(), tmp_path / "net.pt")


@pytest.mark.parametrize("name", ["net.pt", "net.safetensors"])
def test_unreadable_files(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"not weights at all")
    with pytest.raises(WeightsError):
        load_weights(Tied(), tmp_path / name)
    (tmp_path / name).unlink()
    with pytest.raises(WeightsError, match="no such file"):
        load_weights(Tied(), tmp_path / name)


def test_file_without_a_state_dict(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "net.pt")
    with pytest.raises(WeightsError, match="holds no state dict, but a list"):
        load_weights(Tied(), tmp_path / "net.pt")
