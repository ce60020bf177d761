"""Adapters of like rank in a stack, so that one product serves all of them at once.

Where every product is a launch, a loop over a step's adapters takes longer than the arithmetic. A
grouped product multiplies each group of rows with its own matrix of a stack. (The idea of SGMV in
Punica, Chen et al. 2023; here by `torch.nn.functional.grouped_mm`.) A stack is put together for its
product and goes with it: factors are copied once an adapter, not once a token, and an adapter takes
its own memory and no more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from loradock.engine.device import on_device
from loradock.engine.lora import Adapter, LoraAdapter, LoraPair, Segment
from loradock.engine.protocol import LinearShape

LOWEST_RANK = 8  # grouped products want rows of 16 bytes
LONG = 64  # tokens of one adapter from which a product of its own is as good
_grouped_mm: Any = getattr(functional, "grouped_mm", None)  # since torch 2.10


@dataclass(frozen=True, slots=True)
class PaddedAdapter(LoraAdapter):
    """A version's weights, all of one rank."""

    rank: int

    @property
    def place(self) -> int:
        return self.rank


@dataclass(frozen=True, slots=True)
class Group:
    """Segments side by side, of adapters of one rank: a product a factor for all of them."""

    start: int
    end: int
    adapters: Sequence[LoraAdapter]
    ends: Tensor  # [adapters] int32: where each one's tokens end, from the group's start

    def add_to(self, y: Tensor, x: Tensor, module: str) -> None:
        """Add the updates of one module to `y` ([tokens, out]) for `x` ([tokens, in]), in place."""
        pairs = [adapter.pairs.get(module) for adapter in self.adapters]
        present = next((pair for pair in pairs if pair is not None), None)
        if present is not None:
            absent = present if None not in pairs else present.zeros()
            a = torch.stack([(pair or absent).a for pair in pairs])  # [adapters, rank, in]
            b = torch.stack([(pair or absent).b for pair in pairs])  # [adapters, out, rank]
            narrow = _grouped_mm(x[self.start : self.end], a.transpose(1, 2), offs=self.ends)
            y[self.start : self.end] += _grouped_mm(narrow, b.transpose(1, 2), offs=self.ends)


def padded(adapter: LoraAdapter) -> PaddedAdapter:
    """Fill all pairs up to one rank, no more than twice the adapter's, with zeros."""
    rank = padded_rank(len(pair.a) for pair in adapter.pairs.values())
    pairs = {module: _padded(pair, rank) for module, pair in adapter.pairs.items()}
    size = sum(pair.size_bytes for pair in pairs.values())
    return PaddedAdapter(adapter.digest, adapter.num_modules, size, pairs, rank)


def padded_rank(ranks: Iterable[int]) -> int:
    """Give the one rank for an adapter whose modules have these."""
    return max(LOWEST_RANK, 1 << (max(ranks, default=1) - 1).bit_length())


def grouped(segments: Sequence[Segment], device: torch.device) -> list[Segment | Group]:
    """Put together what one product can serve: many short segments, not few long ones."""
    parts: list[Segment | Group] = []
    for rank, some in groupby(segments, key=lambda segment: _rank_of(segment.adapter)):
        together = list(some)
        num_tokens = together[-1].end - together[0].start
        if rank is None or len(together) == 1 or num_tokens > LONG * len(together):
            parts += together
        else:
            parts.append(_group(together, device))
    return parts


def work_on(device: torch.device, dtype: torch.dtype, shapes: Iterable[LinearShape]) -> bool:
    """Try grouped products of modules on a device; whether they are there and right."""
    return _grouped_mm is not None and all(_is_right(device, dtype, shape) for shape in shapes)


def _is_right(device: torch.device, dtype: torch.dtype, shape: LinearShape) -> bool:
    draw = torch.Generator().manual_seed(0)

    def drawn(*size: int) -> Tensor:
        return torch.randn(size, generator=draw).to(device, dtype)

    x, segments = drawn(6, shape.in_features), []
    for start, end in ((1, 2), (2, 5)):
        pair = LoraPair(
            drawn(LOWEST_RANK, shape.in_features), drawn(shape.out_features, LOWEST_RANK)
        )
        segments.append(Segment(padded(LoraAdapter("", 1, 0, {"": pair})), start, end))
    got, expected = x.new_zeros(2, 6, shape.out_features)
    try:
        for part in grouped(segments, device):
            part.add_to(got, x, "")
    except RuntimeError:
        return False
    for segment in segments:
        segment.add_to(expected, x, "")
    return bool((got - expected).abs().max() <= 0.02 * expected.abs().max())


def _group(segments: Sequence[Segment], device: torch.device) -> Group:
    start = segments[0].start
    ends = torch.tensor([segment.end - start for segment in segments], dtype=torch.int32)
    adapters = [s.adapter for s in segments if isinstance(s.adapter, PaddedAdapter)]  # all are
    return Group(start, segments[-1].end, adapters, on_device(ends, device))


def _padded(pair: LoraPair, rank: int) -> LoraPair:
    fill = rank - len(pair.a)
    if not fill:
        return pair
    return LoraPair(functional.pad(pair.a, (0, 0, 0, fill)), functional.pad(pair.b, (0, fill)))


def _rank_of(adapter: Adapter) -> int | None:
    return adapter.rank if isinstance(adapter, PaddedAdapter) else None
