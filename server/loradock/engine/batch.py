"""One step as tensors: which tokens, at which positions, where their keys go, whose they are.

Rows of one adapter stand side by side, rows of the base first. Built once a step, for all layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import torch
from torch import Tensor

from loradock.engine.device import on_device
from loradock.engine.lora import Adapter, Segment
from loradock.engine.memory import BLOCK_TOKENS
from loradock.engine.rows import Chunk
from loradock.engine.stacks import Group, grouped


@dataclass(frozen=True, slots=True)
class Span:
    """A chunk's tokens in the step."""

    chunk: Chunk
    start: int
    end: int

    def __len__(self) -> int:
        return self.end - self.start


class Batch:
    """What one step computes. Its tensors are made when first asked for, then kept."""

    def __init__(
        self, chunks: Sequence[Chunk], adapters: Mapping[str, Adapter], device: torch.device
    ) -> None:
        self.device = device
        self.spans = _laid_out(chunks, adapters)
        self.segments = _segments(self.spans, adapters, len)
        self.wanted_segments = _segments(self.spans, adapters, lambda s: len(s.chunk.wanted))

    def __len__(self) -> int:
        return self.spans[-1].end

    @cached_property
    def updates(self) -> list[Segment | Group]:
        """What adapters add to the step's tokens."""
        return grouped(self.segments, self.device)

    @cached_property
    def wanted_updates(self) -> list[Segment | Group]:
        """What adapters add to the wanted tokens, in the output head."""
        return grouped(self.wanted_segments, self.device)

    @cached_property
    def tokens(self) -> Tensor:
        """Token ids, [tokens]."""
        return self._integers(s.chunk.row.token(p) for s in self.spans for p in s.chunk.places)

    @cached_property
    def positions(self) -> Tensor:
        """Positions in their texts, [tokens]."""
        return self._integers(s.chunk.row.position(p) for s in self.spans for p in s.chunk.places)

    @cached_property
    def places(self) -> Tensor:
        """Where in key/value memory each token goes, [tokens]."""
        return self._integers(
            s.chunk.row.blocks[p // BLOCK_TOKENS] * BLOCK_TOKENS + p % BLOCK_TOKENS
            for s in self.spans
            for p in s.chunk.places
        )

    @cached_property
    def wanted(self) -> Tensor:
        """The tokens after which a distribution is asked for, [wanted], in the spans' order."""
        return self._integers(
            s.start + place - s.chunk.start for s in self.spans for place in s.chunk.wanted
        )

    @cached_property
    def singles(self) -> list[Span]:
        """Spans of one token that sees all places before it: rows that decode."""
        return [s for s in self.spans if len(s) == 1 and s.chunk.row.sees(s.chunk.start) is None]

    @cached_property
    def stretches(self) -> list[Span]:
        """All other spans: prompts, and tries of continuations."""
        singles = set(map(id, self.singles))
        return [s for s in self.spans if id(s) not in singles]

    def _integers(self, values: Iterable[int]) -> Tensor:
        return on_device(torch.tensor(list(values), dtype=torch.int64), self.device)


def _laid_out(chunks: Sequence[Chunk], adapters: Mapping[str, Adapter]) -> list[Span]:
    """Give every chunk its tokens, the base's first, each adapter's together."""

    def place(chunk: Chunk) -> tuple[int, str]:
        digest = chunk.row.work.adapter
        return (-1, "") if digest is None else (adapters[digest].place, digest)

    spans, start = [], 0
    for chunk in sorted(chunks, key=place):
        spans.append(Span(chunk, start, start + len(chunk)))
        start += len(chunk)
    return spans


def _segments(
    spans: Sequence[Span], adapters: Mapping[str, Adapter], length: Callable[[Span], int]
) -> list[Segment]:
    segments, start = [], 0
    for digest, group in groupby(spans, key=lambda span: span.chunk.row.work.adapter):
        end = start + sum(map(length, group))
        if digest is not None and end > start:
            segments.append(Segment(adapters[digest], start, end))
        start = end
    return segments
