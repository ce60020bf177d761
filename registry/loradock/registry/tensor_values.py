"""Looks at every number of a safetensors file once, in bounded memory: is it finite, is it zero."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from loradock.registry.safetensors_header import DTYPE_BYTES, TensorInfo

# The bits of an exponent: all set means infinity or no number. A sign alone is still zero.
_WORDS: dict[str, tuple[np.dtype[Any], int, int]] = {
    "F64": (np.dtype("<u8"), 0x7FF0_0000_0000_0000, 0x7FFF_FFFF_FFFF_FFFF),
    "F32": (np.dtype("<u4"), 0x7F80_0000, 0x7FFF_FFFF),
    "F16": (np.dtype("<u2"), 0x7C00, 0x7FFF),
    "BF16": (np.dtype("<u2"), 0x7F80, 0x7FFF),
}


@dataclass(slots=True)
class Values:
    """What was seen of a tensor's numbers."""

    is_finite: bool = True
    is_zero: bool = True


def scan(chunks: Iterable[bytes], tensors: Mapping[str, TensorInfo]) -> dict[str, Values]:
    """Look at a whole file, given in chunks; the tensors are in the order of their bytes."""
    found = {name: Values() for name in tensors}
    waiting = list(tensors.items())[::-1]
    position, rest = 0, b""
    for chunk in chunks:
        block = rest + chunk
        block_start = position - len(rest)
        position += len(chunk)
        done = _scan_block(block, block_start, waiting, found)
        rest = block[done:]
    return found


def _scan_block(
    block: bytes,
    block_start: int,
    waiting: list[tuple[str, TensorInfo]],
    found: dict[str, Values],
) -> int:
    """Look at whole words of a block; give how many bytes are done with."""
    view, block_end, done = memoryview(block), block_start + len(block), block_start
    while waiting:
        name, tensor = waiting[-1]
        width = DTYPE_BYTES[tensor.dtype]
        start = max(tensor.start, done)
        end = min(tensor.end, block_end)
        if end < start:
            return len(block)  # before the first tensor
        end -= (end - start) % width
        _look(view[start - block_start : end - block_start], tensor.dtype, found[name])
        done = end
        if end < tensor.end:
            return done - block_start
        waiting.pop()
    return len(block)


def _look(content: memoryview, dtype: str, values: Values) -> None:
    if not len(content):
        return
    word, exponent, magnitude = _WORDS[dtype]
    bits = np.frombuffer(content, dtype=word)
    values.is_finite = values.is_finite and not bool(np.any(bits & exponent == exponent))
    values.is_zero = values.is_zero and not bool(np.any(bits & magnitude))
