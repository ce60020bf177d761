"""Adapters of like rank in stacks, so that one product serves all of them at once.

Where every product is a launch, a loop over a step's adapters takes longer than the arithmetic. A
grouped product multiplies each group of rows with its own matrix of a stack, in place: nothing is
gathered per token, and an adapter costs its own rows alone. (The idea of SGMV in Punica, Chen et
al. 2023; here by `torch.nn.functional.grouped_mm`.)
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from loradock.engine.lora import Adapter, LoraAdapter, LoraPair, Segment

SLOTS = 8
LOWEST_RANK = 8  # grouped products want rows of 16 bytes
LONG = 64  # tokens of one adapter from which a product of its own is as good
_grouped_mm: Any = getattr(functional, "grouped_mm", None)  # since torch 2.10


class Stack:
    """The factors of up to `SLOTS` adapters, [slot, inputs, rank] and [slot, rank, outputs].

    Its slots are taken and given back under the lock of its `Stacks`; a step reads other slots
    meanwhile.
    """

    def __init__(self, number: int, rank: int) -> None:
        self.number = number
        self.rank = rank
        self.free = list(range(SLOTS))
        self.factors: dict[str, tuple[Tensor, Tensor]] = {}

    def put(self, slot: int, pairs: Mapping[str, LoraPair]) -> dict[str, LoraPair]:
        """Copy an adapter into a slot; give its pairs as views of it."""
        for module in self.factors.keys() - pairs.keys():
            for factor in self.factors[module]:
                factor[slot].zero_()
        return {module: self._put(slot, module, pair) for module, pair in pairs.items()}

    def give_back(self, slot: int) -> None:
        """Let a slot be used again; memory goes with the last."""
        self.free.append(slot)
        if len(self.free) == SLOTS:
            self.factors = {}

    def _put(self, slot: int, module: str, pair: LoraPair) -> LoraPair:
        rank, inputs = pair.a.shape
        if module not in self.factors:
            a = pair.a.new_zeros(SLOTS, inputs, self.rank)
            self.factors[module] = a, pair.b.new_zeros(SLOTS, self.rank, len(pair.b))
        a, b = (factor[slot] for factor in self.factors[module])
        a[:, :rank], b[:rank] = pair.a.t(), pair.b.t()
        a[:, rank:], b[rank:] = 0, 0
        return LoraPair(a[:, :rank].t(), b[:rank].t())


@dataclass(frozen=True, slots=True)
class StackedAdapter(LoraAdapter):
    """A version's weights in a slot of a stack."""

    stack: Stack
    slot: int

    @property
    def place(self) -> tuple[int, int]:
        return self.stack.number, self.slot


@dataclass(frozen=True, slots=True)
class Group:
    """Segments side by side, of adapters in one stack: a product a factor for all of them."""

    stack: Stack
    start: int
    end: int
    ends: Tensor  # [SLOTS] int32: where each slot's tokens end, from the group's start
    modules: frozenset[str]

    def add_to(self, y: Tensor, x: Tensor, module: str) -> None:
        """Add the updates of one module to `y` ([tokens, out]) for `x` ([tokens, in]), in place."""
        if module in self.modules:
            a, b = self.stack.factors[module]
            narrow = _grouped_mm(x[self.start : self.end], a, offs=self.ends)
            y[self.start : self.end] += _grouped_mm(narrow, b, offs=self.ends)


class Stacks:
    """All stacks of an engine. Any thread may put adapters in and take them out."""

    def __init__(self) -> None:
        self._stacks: list[Stack] = []
        self._lock = threading.Lock()

    def put(self, adapter: LoraAdapter) -> StackedAdapter:
        """Give an adapter a slot, in a stack of no more than twice its rank."""
        rank = stack_rank(len(pair.a) for pair in adapter.pairs.values())
        with self._lock:
            stack = next((s for s in self._stacks if s.rank == rank and s.free), None)
            if stack is None:
                stack = Stack(len(self._stacks), rank)
                self._stacks.append(stack)
            slot = stack.free.pop()
            try:
                pairs = stack.put(slot, adapter.pairs)
            except BaseException:  # as a rule there is no memory for it
                stack.give_back(slot)
                raise
        size = sum(rank * (p.a.shape[1] + len(p.b)) * p.a.itemsize for p in pairs.values())
        return StackedAdapter(adapter.digest, adapter.num_modules, size, pairs, stack, slot)

    def take_out(self, adapter: StackedAdapter) -> None:
        """Give an adapter's slot back. No step may use it any more."""
        with self._lock:
            adapter.stack.give_back(adapter.slot)


def stack_rank(ranks: Iterable[int]) -> int:
    """Give the rank of the stack for an adapter whose modules have these ranks."""
    return max(LOWEST_RANK, 1 << (max(ranks, default=1) - 1).bit_length())


def grouped(segments: Sequence[Segment], device: torch.device) -> list[Segment | Group]:
    """Put together what one product can serve: many short segments, not few long ones."""
    parts: list[Segment | Group] = []
    for stack, some in groupby(segments, key=lambda segment: _stack_of(segment.adapter)):
        together = list(some)
        num_tokens = together[-1].end - together[0].start
        if stack is None or len(together) == 1 or num_tokens > LONG * len(together):
            parts += together
        else:
            parts.append(_group(stack, together, device))
    return parts


def work_on(device: torch.device, dtype: torch.dtype) -> bool:
    """Try grouped products on a device; whether they are there and right."""
    if _grouped_mm is None:
        return False
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(6, 32, generator=draw).to(device, dtype)
    stack = torch.randn(3, 32, 16, generator=draw).to(device, dtype)
    ends = torch.tensor([2, 2, 6], dtype=torch.int32, device=device)
    try:
        got = _grouped_mm(x, stack, offs=ends).float()
    except (RuntimeError, NotImplementedError):
        return False
    expected = torch.cat([x[:2] @ stack[0], x[2:] @ stack[2]]).float()
    return bool((got - expected).abs().max() <= 0.02 * expected.abs().max())


def _group(stack: Stack, segments: Sequence[Segment], device: torch.device) -> Group:
    start = segments[0].start
    ends, modules = [0] * SLOTS, set[str]()
    for segment in segments:
        assert isinstance(segment.adapter, StackedAdapter)
        slot = segment.adapter.slot
        ends[slot:] = [segment.end - start] * (SLOTS - slot)
        modules |= segment.adapter.pairs.keys()
    offsets = torch.tensor(ends, dtype=torch.int32, device=device)
    return Group(stack, start, segments[-1].end, offsets, frozenset(modules))


def _stack_of(adapter: Adapter) -> Stack | None:
    return adapter.stack if isinstance(adapter, StackedAdapter) else None
