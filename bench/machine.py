"""What the machine can do: the limits that shares are quoted of, measured in the same run."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

MATRIX = 2048
STREAM_BYTES = 512 << 20
REPETITIONS = 7


@dataclass(frozen=True, slots=True)
class Limits:
    """Multiply-adds and bytes a second."""

    multiply_adds_per_s: dict[str, float]  # by dtype
    bytes_per_s: float

    def tokens_per_s(self, dtype: str, multiply_adds: float, weight_bytes: float) -> float:
        """Give the most tokens a second that what one token costs allows."""
        return 1 / max(
            multiply_adds / self.multiply_adds_per_s[dtype], weight_bytes / self.bytes_per_s
        )


def measure() -> Limits:
    """Multiply large matrices; read much memory."""
    products = {
        "float32": _seconds(_product(torch.float32)),
        "bfloat16": _seconds(_product(torch.bfloat16)),
        "int8": _seconds(_product_int8()),
    }
    stream = torch.ones(STREAM_BYTES // 4)
    return Limits(
        {dtype: MATRIX**3 / seconds for dtype, seconds in products.items()},
        STREAM_BYTES / _seconds(stream.sum),
    )


def describe() -> str:
    """Name the machine."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.partition(": ")[2] for line in lines if "model name" in line), "")
    return f"{os.cpu_count()} cores {model or platform.processor()} {platform.machine()}".strip()


def _product(dtype: torch.dtype) -> Callable[[], object]:
    a, b = torch.randn(MATRIX, MATRIX).to(dtype), torch.randn(MATRIX, MATRIX).to(dtype)
    return lambda: a @ b


def _product_int8() -> Callable[[], object]:
    a = torch.randint(-9, 9, (MATRIX, MATRIX), dtype=torch.int8)
    return lambda: torch._int_mm(a, a)


def _seconds(call: Callable[[], object]) -> float:
    call()
    times = []
    for _ in range(REPETITIONS):
        begun = time.perf_counter()
        call()
        times.append(time.perf_counter() - begun)
    return statistics.median(times)
