"""Tensors of an ONNX file as PyTorch's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from skipgraph.errors import SourceError, first_line

if TYPE_CHECKING:
    import onnx_ir as ir

_SMALL = 1024  # elements; below it, values may be sizes, axes or scales, and are always read

_DTYPES = {
    "FLOAT": torch.float32,
    "FLOAT16": torch.float16,
    "BFLOAT16": torch.bfloat16,
    "DOUBLE": torch.float64,
    "BOOL": torch.bool,
    "INT8": torch.int8,
    "INT16": torch.int16,
    "INT32": torch.int32,
    "INT64": torch.int64,
    "UINT8": torch.uint8,
    "UINT16": torch.uint16,
    "UINT32": torch.uint32,
    "UINT64": torch.uint64,
    "COMPLEX64": torch.complex64,
    "COMPLEX128": torch.complex128,
    "FLOAT8E4M3FN": torch.float8_e4m3fn,
    "FLOAT8E5M2": torch.float8_e5m2,
}


def dtype_of(data_type: ir.DataType) -> torch.dtype | None:
    """PyTorch's dtype of an ONNX element type; None if it has none."""
    return _DTYPES.get(data_type.name)


def onnx_dtype(dtype: torch.dtype) -> ir.DataType:
    """The ONNX element type of a dtype."""
    import onnx_ir as ir

    return ir.DataType[next(name for name, one in _DTYPES.items() if one == dtype)]


def read(tensor: ir.TensorProtocol, *, data: bool) -> torch.Tensor | None:
    """A tensor of a file; on the meta device if it is large and ``data`` is not wanted.

    None if PyTorch has no such dtype.

    Raises
    ------
    SourceError
        If its data is not there.
    """
    dtype = dtype_of(tensor.dtype)
    if dtype is None:
        return None
    shape = tuple(size for size in tensor.shape if isinstance(size, int))
    if not data and dtype.is_floating_point and tensor.size > _SMALL:
        return torch.empty(shape, dtype=dtype, device="meta")
    try:
        array = tensor.numpy()
    except Exception as error:  # a damaged file; external data that is missing or too short
        raise SourceError(
            f"the data of the tensor {tensor.name} cannot be read: {first_line(error)}",
            "Keep files of external data beside the model; write it again if it is damaged.",
        ) from error
    if dtype in (torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2):  # which numpy knows by another package
        bits = np.int16 if dtype is torch.bfloat16 else np.uint8
        return torch.from_numpy(np.array(array).view(bits)).view(dtype).reshape(shape)
    return torch.from_numpy(np.array(array)).reshape(shape)  # a copy: the file's own memory must not be written


def write(tensor: torch.Tensor, name: str) -> ir.TensorProtocol:
    """A tensor for a file."""
    import onnx_ir as ir

    plain = tensor.detach().cpu().contiguous()
    if plain.dtype is torch.bfloat16:
        return ir.Tensor(plain.view(torch.int16).numpy().view(np.uint16), dtype=ir.DataType.BFLOAT16, name=name)
    return ir.Tensor(plain.numpy(), name=name)
