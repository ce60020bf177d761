"""The header of a safetensors file, read by ourselves and trusted in nothing.

The format: the header's length in 8 bytes, little-endian; a JSON object; then the tensors' bytes,
without a hole.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from loradock.registry.errors import Problem
from loradock.registry.limits import Limits
from loradock.registry.strict_json import parse_json

WEIGHTS = "adapter_model.safetensors"
DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_PREFIX_BYTES = 8
_MAX_NAME_CHARS = 512
_MAX_DIMENSIONS = 8
# How files begin that hold pickles, or that hold files that hold pickles.
_PICKLES = {
    b"PK\x03\x04": "a zip archive, as torch.save writes it",
    b"\x80\x02": "a pickle",
    b"\x80\x03": "a pickle",
    b"\x80\x04": "a pickle",
    b"\x80\x05": "a pickle",
    b"\x1f\x8b": "a gzip archive",
    b"BZh": "a bzip2 archive",
    b"\x93NUMPY": "a numpy file",
}


class MalformedHeader(Exception):
    """The file is not a safetensors file that may be read."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        super().__init__(problem.message)


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor, as the header describes it; offsets count from the file's beginning."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def header_end(start: bytes, file_bytes: int, limits: Limits) -> int:
    """Say, from a file's first bytes, where its header ends."""
    _refuse_pickle(start)
    if file_bytes < _PREFIX_BYTES + 2 or len(start) < _PREFIX_BYTES:
        raise _malformed("TRUNCATED", f"has only {file_bytes} bytes")
    length = int.from_bytes(start[:_PREFIX_BYTES], "little")
    if length > limits.max_header_bytes:
        raise _malformed(
            "HEADER_TOO_LARGE",
            f"its header claims {length} bytes; the limit is {limits.max_header_bytes}",
        )
    if _PREFIX_BYTES + length > file_bytes:
        raise _malformed("TRUNCATED", "its header is longer than the file")
    return _PREFIX_BYTES + length


def read_header(start: bytes, file_bytes: int, limits: Limits) -> dict[str, TensorInfo]:
    """Read a header from the beginning of a file of so many bytes.

    Gives the tensors in the order of their bytes; MalformedHeader for anything else.
    """
    end = header_end(start, file_bytes, limits)
    if len(start) < end:
        raise _malformed("TRUNCATED", "its header is cut off")
    document = _parse(start[_PREFIX_BYTES:end])
    metadata = document.pop("__metadata__", {})
    _check_metadata(metadata)
    if not 0 < len(document) <= limits.max_tensors:
        raise _malformed("TENSOR_COUNT", f"{len(document)} is not in 1..{limits.max_tensors}")
    tensors = {name: _tensor(name, entry, end) for name, entry in document.items()}
    ordered = dict(sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)))
    _check_layout(ordered, end, file_bytes)
    return ordered


def _refuse_pickle(start: bytes) -> None:
    if start[_PREFIX_BYTES : _PREFIX_BYTES + 1] == b"{":
        return  # a header may happen to have a length that looks like a pickle's first bytes
    for magic, what in _PICKLES.items():
        if start.startswith(magic):
            raise _malformed("PICKLE_REFUSED", f"is {what}; only safetensors is let in")


def _parse(header: bytes) -> dict[str, Any]:
    try:
        document = parse_json(header)
    except ValueError as error:
        raise _malformed("HEADER_MALFORMED", f"its header is not JSON: {error!s:.200}") from None
    if not header.startswith(b"{") or not isinstance(document, dict):
        raise _malformed("HEADER_MALFORMED", "its header is not a JSON object")
    return document


def _check_metadata(metadata: object) -> None:
    if not isinstance(metadata, Mapping) or not all(
        isinstance(value, str) for value in metadata.values()
    ):
        raise _malformed("METADATA_MALFORMED", "its metadata is not a map from text to text")


def _tensor(name: str, entry: object, data_start: int) -> TensorInfo:
    if not 0 < len(name) <= _MAX_NAME_CHARS or not name.isprintable():
        raise _malformed("TENSOR_MALFORMED", f"a tensor is called {name!r:.100}")
    match entry:
        case {
            "dtype": str(dtype),
            "shape": list(shape),
            "data_offsets": [start, end],
            **others,
        } if not others:
            pass
        case _:
            raise _malformed("TENSOR_MALFORMED", "has not just dtype, shape, data_offsets", name)
    if dtype not in DTYPE_BYTES:
        allowed = ", ".join(DTYPE_BYTES)
        raise _malformed("DTYPE_REFUSED", f"is {dtype!r:.40}; allowed are {allowed}", name)
    if len(shape) > _MAX_DIMENSIONS or not all(map(_is_size, (*shape, start, end))):
        raise _malformed("TENSOR_MALFORMED", "has a size that is none", name)
    num_bytes = math.prod(shape) * DTYPE_BYTES[dtype]
    if end - start != num_bytes:
        raise _malformed("OFFSETS_WRONG", f"needs {num_bytes} bytes, has {end - start}", name)
    return TensorInfo(dtype, tuple(shape), data_start + start, data_start + end)


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**48


def _check_layout(ordered: Mapping[str, TensorInfo], data_start: int, file_bytes: int) -> None:
    expected = data_start
    for name, tensor in ordered.items():
        if tensor.start != expected:
            how = "overlaps the one before" if tensor.start < expected else "leaves a hole before"
            raise _malformed("OFFSETS_WRONG", how, name)
        expected = tensor.end
    if expected != file_bytes:
        how = "is cut off" if expected > file_bytes else "has bytes that no tensor claims"
        raise _malformed("TRUNCATED" if expected > file_bytes else "TRAILING_BYTES", how)


def _malformed(code: str, message: str, subject: str = WEIGHTS) -> MalformedHeader:
    return MalformedHeader(Problem(subject, code, message))
