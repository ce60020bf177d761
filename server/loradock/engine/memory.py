"""Key/value memory: for each layer, one line of places that blocks divide.

Knows neither rows nor adapters: who may use which block is the scheduler's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from loradock.engine.device import on_device

BLOCK_TOKENS = 16


@dataclass(frozen=True, slots=True)
class HeadShape:
    """What one layer keeps of a token."""

    num_heads: int  # of keys and values, not of queries
    key_dim: int
    value_dim: int


class KeyValueMemory:
    """The keys and values of all layers. Belongs to the step thread."""

    def __init__(
        self,
        layers: Sequence[HeadShape],
        num_blocks: int,
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        places = num_blocks * BLOCK_TOKENS

        def empty(heads: int, dim: int) -> Tensor:
            return torch.zeros(places, heads, dim, device=device, dtype=dtype)

        self.num_blocks = num_blocks
        self.keys = [empty(shape.num_heads, shape.key_dim) for shape in layers]
        self.values = [empty(shape.num_heads, shape.value_dim) for shape in layers]

    def write(self, layer: int, places: Tensor, keys: Tensor, values: Tensor) -> None:
        """Put keys and values ([tokens, heads, dim]) at `places` ([tokens])."""
        self.keys[layer].index_copy_(0, places, keys)
        self.values[layer].index_copy_(0, places, values)

    def clear(self, blocks: Sequence[int]) -> None:
        """Zero blocks, so that what a former row left there can't spoil what is masked out.

        Masked places weigh nothing, but nothing times NaN is NaN.
        """
        if not blocks:
            return
        index = on_device(torch.tensor(blocks), self.keys[0].device)
        for memory in (*self.keys, *self.values):
            memory.view(self.num_blocks, BLOCK_TOKENS, *memory.shape[1:]).index_fill_(0, index, 0)


def bytes_per_block(layers: Sequence[HeadShape], dtype: torch.dtype) -> int:
    """Give what one block takes over all layers."""
    per_token = sum(s.num_heads * (s.key_dim + s.value_dim) for s in layers)
    return per_token * BLOCK_TOKENS * dtype.itemsize
