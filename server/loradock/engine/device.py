"""Moves what the host has worked out to the device that computes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def on_device(
    values: Sequence[int] | Sequence[Sequence[int]],
    device: torch.device,
    dtype: torch.dtype = torch.int64,
) -> Tensor:
    """Give integers as a tensor there, without waiting for what the device still computes."""
    made = torch.tensor(values, dtype=dtype)
    if device.type == "cuda":  # out of other memory, a copy is waited for
        made = made.pin_memory()
    return made.to(device, non_blocking=True)
