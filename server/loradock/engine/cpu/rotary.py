"""Rotary factors by position: made once for as many positions as texts have reached."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

ROUND = 1024  # positions that are made at a time

Rotary = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # a transformers module


class RotaryTables:
    """What a base's own rotary module gives for each position. Belongs to the step thread."""

    def __init__(self, rotary: Rotary, context_length: int) -> None:
        """Make none yet; never asks for positions beyond the context, where factors may change."""
        self._rotary = rotary
        self._context_length = context_length
        self._cosines = self._sines = torch.empty(0)

    def up_to(self, position: int) -> tuple[Tensor, Tensor]:
        """Give cosines and sines of at least the positions up to this one, [positions, dim]."""
        if position >= len(self._cosines):
            whole = (position // ROUND + 1) * ROUND
            positions = torch.arange(max(position + 1, min(whole, self._context_length)))
            factors = self._rotary(torch.empty(0), positions[None])
            self._cosines, self._sines = (table[0].float().contiguous() for table in factors)
        return self._cosines, self._sines
