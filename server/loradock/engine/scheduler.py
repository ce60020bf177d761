"""Decides which rows run and what of each the next step computes. Pure Python, no tensors.

First come, first served: a row is admitted when its worst case fits into key/value memory, so that
no running row is ever put back, and nothing is ever cut short. Rows that decode go first in every
step; prompts share what is left of the step's tokens, in chunks.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from loradock.engine.blocks import BlockPool
from loradock.engine.errors import TooLong
from loradock.engine.rows import Chunk, Row, ScoreRow


@dataclass(frozen=True, slots=True)
class Plan:
    """What the next step computes."""

    chunks: list[Chunk]
    fresh_blocks: list[int]  # written for the first time by their row, to be cleared before

    def __bool__(self) -> bool:
        return bool(self.chunks)


class Scheduler:
    """The waiting and the running rows. Belongs to the step thread."""

    def __init__(
        self,
        pool: BlockPool,
        *,
        block_tokens: int,
        max_rows: int,
        step_tokens: int,
        context_length: int,
    ) -> None:
        if step_tokens < max_rows:
            raise ValueError(f"a step of {step_tokens} tokens can't hold {max_rows} rows")
        self._pool = pool
        self._block_tokens = block_tokens
        self._max_rows = max_rows
        self._step_tokens = step_tokens
        self._context_length = context_length
        self.waiting: deque[Row] = deque()
        self.running: list[Row] = []

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self.waiting and not self.running

    def check_fits(self, row: Row) -> None:
        """Raise `TooLong` if a row could never run. Reads settings only: any thread may ask."""
        limit = min(self._context_length, self._pool.num_blocks * self._block_tokens)
        asked = _longest(row)
        if asked > self._context_length or self._num_blocks(row) > self._pool.num_blocks:
            num_prompt = len(row.work.prompt)
            raise TooLong(num_prompt, max(asked, row.most_places) - num_prompt, limit)

    def add(self, row: Row) -> None:
        """Let a row wait for its admission."""
        self.waiting.append(row)

    def find(self, name: str) -> Row | None:
        """Give the row of this name, if it is still here."""
        return next((row for row in chain(self.running, self.waiting) if row.name == name), None)

    def expired(self, now: float) -> list[Row]:
        """Give the rows whose deadline has passed."""
        return [
            row
            for row in chain(self.running, self.waiting)
            if row.work.deadline is not None and row.work.deadline <= now
        ]

    def admit(self) -> None:
        """Let waiting rows run, in their order, as long as the next one fits."""
        while self.waiting and len(self.running) < self._max_rows:
            if not self._try_admit(self.waiting[0]):
                return
            self.running.append(self.waiting.popleft())

    def plan(self) -> Plan:
        """Choose the chunks of the next step. Changes nothing."""
        chunks = list(self._chunks())
        return Plan(chunks, [block for chunk in chunks for block in self._fresh(chunk)])

    def advance(self, chunk: Chunk) -> None:
        """Note that a chunk was computed, and let its whole blocks be found by others."""
        row, size = chunk.row, self._block_tokens
        row.num_computed = chunk.end
        num_whole = min(chunk.end, len(row.tokens)) // size
        for block in range(chunk.start // size, num_whole):
            self._pool.name(row.blocks[block], row.link(block, size))

    def leave(self, row: Row, *, forget: bool = False) -> None:
        """Take a row out and its blocks back; with `forget` nobody finds their content again."""
        if row in self.running:
            self.running.remove(row)
        else:
            self.waiting.remove(row)
        self._pool.give_back(row.blocks, forget=forget)
        row.blocks = []

    def check(self) -> None:
        """Raise `AssertionError` if blocks and rows do not add up."""
        self._pool.check()
        held = {block for row in self.running for block in row.blocks}
        if self._pool.num_used != len(held):
            raise AssertionError(f"{self._pool.num_used} blocks used, {len(held)} held by rows")

    def _try_admit(self, row: Row) -> bool:
        shared = self._pool.find(self._reusable(row))
        num_new = self._num_blocks(row) - len(shared)
        if not self._pool.can_take(num_new, shared):
            return False
        row.blocks = self._pool.take(num_new, shared)
        row.num_cached = row.num_computed = len(shared) * self._block_tokens
        if row.admitted_at is None:
            row.admitted_at = time.monotonic()
        return True

    def _reusable(self, row: Row) -> list[bytes]:
        """Name the prompt's whole blocks, but never all of it: the last token must be computed."""
        num_whole = (len(row.work.prompt) - 1) // self._block_tokens
        return [row.link(block, self._block_tokens) for block in range(num_whole)]

    def _num_blocks(self, row: Row) -> int:
        return -(-row.most_places // self._block_tokens)

    def _chunks(self) -> Iterator[Chunk]:
        budget = self._step_tokens
        for row in self.running:
            if row.num_remaining == 1:
                budget -= 1
                yield Chunk(row, row.num_computed, row.num_computed + 1)
        for row in self.running:
            length = min(row.num_remaining, budget)
            if row.num_remaining > 1 and length > 0:
                budget -= length
                yield Chunk(row, row.num_computed, row.num_computed + length)

    def _fresh(self, chunk: Chunk) -> list[int]:
        """Give the blocks whose first place is in the chunk."""
        first = -(-chunk.start // self._block_tokens)
        return chunk.row.blocks[first : -(-chunk.end // self._block_tokens)]


def _longest(row: Row) -> int:
    """Count the tokens of the longest text that a row may make."""
    if isinstance(row, ScoreRow):
        return len(row.work.prompt) + row.trie.depth
    return row.most_places + 1
