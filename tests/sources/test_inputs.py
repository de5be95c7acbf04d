from __future__ import annotations

import pytest
import torch

from skipgraph.errors import InputError
from skipgraph.sources.inputs import parse_dtype, parse_inputs


def test_positional_inputs_keep_their_order() -> None:
    args, kwargs = parse_inputs(["1x3x8x8", "1x2"])
    assert [tuple(tensor.shape) for tensor in args] == [(1, 3, 8, 8), (1, 2)]
    assert all(tensor.is_meta and tensor.dtype == torch.float32 for tensor in args)
    assert kwargs == {}


def test_named_input_with_dtype() -> None:
    args, kwargs = parse_inputs(["ids=1x128:int64"])
    assert args == ()
    assert kwargs["ids"].shape == (1, 128)
    assert kwargs["ids"].dtype == torch.int64


def test_scalars_and_literals() -> None:
    args, kwargs = parse_inputs(["scalar:int64", "7", "use_cache=False", "mask=None"])
    assert [tuple(tensor.shape) for tensor in args] == [(), (7,)]
    assert kwargs == {"use_cache": False, "mask": None}


def test_default_dtype_is_for_those_that_name_none() -> None:
    (first, second), _ = parse_inputs(["2", "2:f64"], dtype=torch.float16)
    assert (first.dtype, second.dtype) == (torch.float16, torch.float64)


def test_dotted_names_reach_into_dicts_and_lists() -> None:
    _, kwargs = parse_inputs(["batch.image=1x3", "batch.mask=1x1:bool", "levels.0=1x2", "levels.1=1x4"])
    assert set(kwargs["batch"]) == {"image", "mask"}
    assert [tuple(level.shape) for level in kwargs["levels"]] == [(1, 2), (1, 4)]


@pytest.mark.parametrize("text", ["", "3,224,224", "1x", "x", "1x-1", "a=b=1", "a=", "1x3:", "True", "1x3:int64:bool"])
def test_unreadable(text: str) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        parse_inputs([text])


@pytest.mark.parametrize("texts", [["a=1", "a=2"], ["a=1", "a.b=2"], ["a.b=1", "a=2"]])
def test_given_twice(texts: list[str]) -> None:
    with pytest.raises(InputError):
        parse_inputs(texts)


@pytest.mark.parametrize(
    ("name", "dtype"), [("bf16", torch.bfloat16), ("half", torch.float16), ("bool", torch.bool), ("i8", torch.int8)]
)
def test_dtypes(name: str, dtype: torch.dtype) -> None:
    assert parse_dtype(name) is dtype


@pytest.mark.parametrize("name", ["float31", "nn", "Tensor"])
def test_unknown_dtype(name: str) -> None:
    with pytest.raises(InputError, match="unknown dtype"):
        parse_dtype(name)
