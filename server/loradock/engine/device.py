"""Moves what the host has worked out to the device that computes."""

from __future__ import annotations

import torch
from torch import Tensor


def on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Give a tensor of the host's there, without waiting for what the device still computes."""
    if device.type == "cuda":  # a copy out of memory that is not pinned is waited for
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
