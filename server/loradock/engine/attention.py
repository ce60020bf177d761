"""Attention of a step's tokens over block-managed key/value memory, on any device.

Rows that decode are computed together, over their blocks padded to the longest row; a prompt's
chunk or a trie of continuations by itself. The query heads that share a key head are folded into
the query length, so that keys are never repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from loradock.engine.batch import Batch, Span
from loradock.engine.device import on_device
from loradock.engine.memory import BLOCK_TOKENS, KeyValueMemory
from loradock.engine.rows import Chunk


@dataclass(frozen=True, slots=True)
class AttentionKind:
    """How a layer attends, beyond the usual."""

    scaling: float
    window: int | None = None  # a token sees this many positions, its own included
    softcap: float | None = None


class Attention:
    """Attention of one step: masks and block tables are made once, used by all layers."""

    def __init__(self, batch: Batch, memory: KeyValueMemory) -> None:
        self._batch = batch
        self._memory = memory
        self._singles: dict[int | None, tuple[Tensor, Tensor, Tensor]] = {}
        self._stretches: dict[int | None, list[tuple[Span, Tensor, Tensor]]] = {}

    def attend(self, layer: int, kind: AttentionKind, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Keep keys and values; give [tokens, heads, value_dim].

        `q`: [tokens, heads, dim]; `k`, `v`: [tokens, key heads, dim].
        """
        self._memory.write(layer, self._batch.places, k, v)
        keys, values = self._memory.keys[layer], self._memory.values[layer]
        out = q.new_empty(*q.shape[:2], values.shape[-1])
        if self._batch.singles:
            index, table, mask = self._of_singles(kind.window)
            gathered = _blocks(keys, table), _blocks(values, table)
            out[index] = _together(q[index], *gathered, mask, kind)
        for span, places, mask in self._of_stretches(kind.window):
            out[span.start : span.end] = _alone(
                q[span.start : span.end], keys[places], values[places], mask, kind
            )
        return out

    def _of_singles(self, window: int | None) -> tuple[Tensor, Tensor, Tensor]:
        """Give token indices [rows], block tables [rows, blocks], masks [rows, places]."""
        if window not in self._singles:
            spans, device = self._batch.singles, self._batch.device
            lengths = [span.chunk.end for span in spans]
            num_blocks = -(-max(lengths) // BLOCK_TOKENS)
            blocks = [_padded(span.chunk.row.blocks, num_blocks) for span in spans]
            places = torch.arange(num_blocks * BLOCK_TOKENS, device=device)
            length = on_device(torch.tensor(lengths), device)[:, None]
            mask = places < length
            if window is not None:
                mask &= places >= length - window
            index = on_device(torch.tensor([span.start for span in spans]), device)
            self._singles[window] = index, on_device(torch.tensor(blocks), device), mask
        return self._singles[window]

    def _of_stretches(self, window: int | None) -> list[tuple[Span, Tensor, Tensor]]:
        """Give each span with the places before its end [places] and its mask [tokens, places]."""
        if window not in self._stretches:
            self._stretches[window] = [
                (span, *_view(span, window, self._batch.device)) for span in self._batch.stretches
            ]
        return self._stretches[window]


def _blocks(memory: Tensor, table: Tensor) -> Tensor:
    """Gather [rows, places, heads, dim]."""
    blocks = memory.view(-1, BLOCK_TOKENS, *memory.shape[1:])
    return blocks[table].flatten(1, 2)


def _padded(blocks: Sequence[int], num_blocks: int) -> list[int]:
    """Give `num_blocks` blocks; beyond a row's own stand its first, which its mask hides."""
    return [*blocks[:num_blocks], *[blocks[0]] * (num_blocks - len(blocks))]


def _view(span: Span, window: int | None, device: torch.device) -> tuple[Tensor, Tensor]:
    """Give the places before a span's end [places], and which its tokens see [tokens, places]."""
    row, start, end = span.chunk.row, span.chunk.start, span.chunk.end
    offsets = torch.arange(end, device=device)
    blocks = on_device(torch.tensor(row.blocks[: -(-end // BLOCK_TOKENS)]), device)
    places = blocks[offsets // BLOCK_TOKENS] * BLOCK_TOKENS + offsets % BLOCK_TOKENS
    mask = offsets <= offsets[start:, None]
    if end > len(row.tokens):
        mask[:, len(row.tokens) :] = on_device(_seen_of_trie(span.chunk), device)
    if window is not None:
        of_places = torch.tensor([row.position(place) for place in range(end)])
        positions = on_device(of_places, device)
        mask &= positions > positions[start:, None] - window
    return places, mask


def _seen_of_trie(chunk: Chunk) -> Tensor:
    """Say which nodes of its trie each place of a chunk sees, [tokens, nodes]."""
    first = len(chunk.row.tokens)
    seen = torch.zeros(len(chunk), chunk.end - first, dtype=torch.bool)
    for at, place in enumerate(chunk.places):
        for ancestor in chunk.row.sees(place) or ():
            seen[at, ancestor - first] = True
    return seen


def _together(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor, kind: AttentionKind) -> Tensor:
    """One query each: [rows, heads, dim] over [rows, places, key heads, dim]."""
    rows, heads, dim = q.shape
    folded = q.view(rows, keys.shape[2], -1, dim)  # [rows, key heads, group, dim]
    out = _attend(folded, keys.transpose(1, 2), values.transpose(1, 2), mask[:, None, None], kind)
    return out.reshape(rows, heads, -1)


def _alone(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor, kind: AttentionKind) -> Tensor:
    """One row's queries: [tokens, heads, dim] over [places, key heads, dim]."""
    tokens, heads, dim = q.shape
    key_heads = keys.shape[1]
    group = heads // key_heads
    folded = (
        q.view(tokens, key_heads, group, dim).permute(1, 2, 0, 3).reshape(1, key_heads, -1, dim)
    )
    out = _attend(
        folded,
        keys.transpose(0, 1)[None],
        values.transpose(0, 1)[None],
        mask.repeat(group, 1)[None, None],
        kind,
    )
    return out.view(key_heads, group, tokens, -1).permute(2, 0, 1, 3).reshape(tokens, heads, -1)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, kind: AttentionKind) -> Tensor:
    if kind.softcap is None:
        return scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=kind.scaling)
    scores = torch.tanh(q @ k.transpose(-1, -2) * (kind.scaling / kind.softcap)) * kind.softcap
    scores = scores.float().masked_fill(~mask, float("-inf"))
    return torch.softmax(scores, dim=-1).to(v.dtype) @ v
