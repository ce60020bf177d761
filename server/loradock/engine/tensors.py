"""Reads a safetensors file whole, in plain Python over one piece of memory.

Not mapped: who maps a file dies of it when it is cut short. And not by the package: of its release
0.8 each tensor taken out of a file loses two integers for good, and a lack of memory is a panic.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
_LENGTH_BYTES = 8


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Give a file's tensors, as views of one piece of memory. Raises `ValueError`, `OSError`."""
    size = path.stat().st_size
    content = torch.empty(size, dtype=torch.uint8)
    with path.open("rb") as file:
        if file.readinto(content.numpy().data) != size:
            raise ValueError("the file changed while it was read")
    begin = _LENGTH_BYTES + int.from_bytes(bytes(content[:_LENGTH_BYTES].tolist()), "little")
    try:
        header = json.loads(bytes(content[_LENGTH_BYTES:begin].numpy().data))
        header.pop("__metadata__", None)
        return {name: _tensor(content[begin:], told) for name, told in header.items()}
    except (AttributeError, LookupError, RuntimeError, TypeError) as error:
        raise ValueError(f"it is no whole safetensors file: {error}") from error


def _tensor(data: Tensor, told: Mapping[str, Any]) -> Tensor:
    dtype, shape = DTYPES[told["dtype"]], told["shape"]
    start, end = told["data_offsets"]
    if end - start != math.prod(shape) * dtype.itemsize or end > len(data):
        raise ValueError("the data of a tensor is not where its header says")
    piece = data[start:end]
    if piece.storage_offset() % dtype.itemsize:
        piece = piece.clone()
    return piece.view(dtype).reshape(shape)
