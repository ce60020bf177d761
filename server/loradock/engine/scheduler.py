"""Decides which rows run and what of each the next step computes. Pure Python, no tensors.

A row is admitted when its prompt fits into key/value memory beside what running rows are expected
to grow by; the rest is taken block by block. Where memory runs out, the least important row, of
those the youngest, is put back: it keeps its tokens, and later computes again what it had in
memory. The oldest running row never is, so that something always comes to its end.

Rows that decode go first in every step; prompts share a bounded part of it, in chunks.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterator
from dataclasses import dataclass

from loradock.engine.blocks import BlockPool
from loradock.engine.errors import TooLong
from loradock.engine.fairness import OUTPUT_WEIGHT, FairQueue, rank_of
from loradock.engine.rows import Chunk, Row, ScoreRow

USAGE_AT_START = 0.5  # of what rows may come to need: how much they did, as far as is known
USAGE_MEMORY = 1 / 32  # how much one row's end changes that


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
        prefill_tokens: int,
        context_length: int,
    ) -> None:
        """Plan steps of `step_tokens`, of which prompts get `prefill_tokens` beside answers."""
        if step_tokens < max_rows:
            raise ValueError(f"a step of {step_tokens} tokens can't hold {max_rows} rows")
        if prefill_tokens < 1:
            raise ValueError("prompts need at least a token of each step")
        self._pool = pool
        self._block_tokens = block_tokens
        self._max_rows = max_rows
        self._step_tokens = step_tokens
        self._prefill_tokens = prefill_tokens
        self._context_length = context_length
        self._queue = FairQueue()
        self._rows: dict[str, Row] = {}
        self._deadlines: list[tuple[float, int, Row]] = []  # a heap; may name rows that are gone
        self._num_arrived = 0
        self._usage = USAGE_AT_START
        self.num_preemptions = 0
        self.running: list[Row] = []

    @property
    def rows(self) -> list[Row]:
        """All rows, in the order in which they came."""
        return list(self._rows.values())

    @property
    def waiting(self) -> list[Row]:
        """The rows that wait, in the order in which they came."""
        return sorted(self._queue, key=lambda row: row.arrival)

    @property
    def num_waiting(self) -> int:
        """How many rows wait."""
        return len(self._rows) - len(self.running)

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self._rows

    def check_fits(self, row: Row) -> None:
        """Raise `TooLong` if a row could never run. Reads settings only: any thread may ask."""
        num_places = self._pool.num_blocks * self._block_tokens
        asked, unkept = _longest(row), _longest(row) - row.most_places
        if asked > self._context_length or row.most_places > num_places:
            limit = min(self._context_length, num_places + max(0, unkept))
            num_prompt = len(row.work.prompt)
            raise TooLong(num_prompt, max(asked, row.most_places) - num_prompt, limit)

    def add(self, row: Row) -> None:
        """Let a row wait for its admission."""
        row.arrival = self._num_arrived
        self._num_arrived += 1
        self._rows[row.name] = row
        self._queue.add(row)
        if row.work.deadline is not None:
            heapq.heappush(self._deadlines, (row.work.deadline, row.arrival, row))

    def find(self, name: str) -> Row | None:
        """Give the row of this name, if it is still here."""
        return self._rows.get(name)

    def expired(self, now: float) -> list[Row]:
        """Give the rows whose deadline has passed, each once: they are to leave."""
        late = []
        while self._deadlines and self._deadlines[0][0] <= now:
            row = heapq.heappop(self._deadlines)[-1]
            if self._rows.get(row.name) is row:
                late.append(row)
        return late

    def admit(self) -> list[Row]:
        """Give running rows what they write next; then let waiting rows run, and name them."""
        admitted: list[Row] = []
        if self._grow():
            return admitted  # memory is short: whoever runs goes before whoever waits
        while len(self.running) < self._max_rows:
            row = self._queue.first()
            if row is None or not self._try_admit(row):
                break
            self._queue.take(row)
            self._charge_prompt(row)
            self.running.append(row)
            admitted.append(row)
        return admitted

    def plan(self) -> Plan:
        """Choose the chunks of the next step. Changes nothing."""
        chunks = list(self._chunks())
        return Plan(chunks, [block for chunk in chunks for block in self._fresh(chunk)])

    def end_step(self) -> None:
        """Note that a step has passed, for the age of those who wait."""
        self._queue.pass_step()

    def advance(self, chunk: Chunk) -> None:
        """Note that a chunk was computed, and let its whole blocks be found by others."""
        row, size = chunk.row, self._block_tokens
        row.num_computed = chunk.end
        if chunk.end > row.num_charged:
            row.share.charge(OUTPUT_WEIGHT * (chunk.end - row.num_charged))
            row.num_charged = chunk.end
        num_whole = min(chunk.end, len(row.tokens)) // size
        for block in range(chunk.start // size, num_whole):
            self._pool.name(row.blocks[block], row.link(block, size))

    def leave(self, row: Row, *, forget: bool = False) -> None:
        """Take a row out and its blocks back; with `forget` nobody finds their content again."""
        del self._rows[row.name]
        self._queue.leave(row, is_waiting=not row.is_running)
        if row.is_running:
            self._note_usage(row)
            self._stop(row, forget=forget)
        if len(self._deadlines) > 2 * len(self._rows) + 64:
            self._deadlines = [due for due in self._deadlines if due[-1].name in self._rows]
            heapq.heapify(self._deadlines)

    def check(self) -> None:
        """Raise `AssertionError` if blocks and rows do not add up."""
        self._pool.check()
        held = {block for row in self.running for block in row.blocks}
        if self._pool.num_used != len(held):
            raise AssertionError(f"{self._pool.num_used} blocks used, {len(held)} held by rows")
        if len(self._queue) != self.num_waiting:
            raise AssertionError(f"{len(self._queue)} rows in lines, {self.num_waiting} wait")

    def _grow(self) -> bool:
        """Give running rows the blocks of what they compute next; whether rows had to be put back.

        The oldest first, and never taking from it.
        """
        size = self._block_tokens
        short = [row for row in self.running if len(row.blocks) * size < row.num_places]
        num_before = self.num_preemptions
        for row in sorted(short, key=lambda row: row.arrival):
            while row.is_running and not self._pool.can_take(1):
                self._preempt(self._victim())
            if row.is_running:
                row.blocks += self._pool.take(1)
        return self.num_preemptions > num_before

    def _victim(self) -> Row:
        """Give the row that can best be put back: the least important, of those the youngest."""
        oldest = min(self.running, key=lambda row: row.arrival)
        others = [row for row in self.running if row is not oldest]
        return max(others, key=lambda row: (row.level, row.arrival))

    def _preempt(self, row: Row) -> None:
        """Put a row back. What it has told stays told; its tokens are computed again."""
        self._stop(row)
        row.num_computed = 0
        row.num_preempted += 1
        self.num_preemptions += 1
        self._queue.put_back(row)

    def _stop(self, row: Row, *, forget: bool = False) -> None:
        self.running.remove(row)
        self._pool.give_back(row.blocks, forget=forget)
        row.blocks, row.is_running = [], False

    def _try_admit(self, row: Row) -> bool:
        """Let a row run if what is known of it fits, beside what all are expected to grow by."""
        size = self._block_tokens
        shared = self._pool.find(self._reusable(row))
        num_new = -(-row.num_places // size) - len(shared)
        growth = self._growth(row) + sum(map(self._growth, self.running))
        if not self._pool.can_take(num_new + growth, shared) and (
            self.running or not self._pool.can_take(num_new, shared)
        ):
            return False
        row.blocks = self._pool.take(num_new, shared)
        row.num_computed = len(shared) * size
        row.is_running = True
        if not row.num_preempted:
            row.admitted_at = time.monotonic()
            row.num_cached = row.num_computed
        return True

    def _charge_prompt(self, row: Row) -> None:
        """Charge what of a row is to be computed, once: not again if it is put back."""
        if not row.num_charged:
            row.share.charge(row.num_places - row.num_cached)
            row.num_charged = row.num_places

    def _growth(self, row: Row) -> int:
        """Give the blocks that a row is expected to take yet: as rows lately did, but not none."""
        size = self._block_tokens
        known, held = row.num_places, len(row.blocks) or -(-row.num_places // size)
        expected = known + self._usage * (row.most_places - known)
        return max(-(-int(expected) // size) - held, held * size < row.most_places)

    def _note_usage(self, row: Row) -> None:
        """Learn from a row that ends how much rows use of what they may."""
        num_known = len(row.work.prompt)
        if not isinstance(row, ScoreRow) and row.most_places > num_known:
            used = (row.num_places - num_known) / (row.most_places + 1 - num_known)
            self._usage += USAGE_MEMORY * (used - self._usage)

    def _reusable(self, row: Row) -> list[bytes]:
        """Name the text's whole blocks, but never all of it: the last token must be computed."""
        num_whole = (len(row.tokens) - 1) // self._block_tokens
        return [row.link(block, self._block_tokens) for block in range(num_whole)]

    def _chunks(self) -> Iterator[Chunk]:
        budget, is_answering = self._step_tokens, False
        prompts = []
        for row in self.running:
            if row.num_remaining == 1:
                budget -= 1
                is_answering = is_answering or row.is_answering
                yield Chunk(row, row.num_computed, row.num_computed + 1)
            else:
                prompts.append(row)
        if is_answering:
            budget = min(budget, self._prefill_tokens)
        if len(prompts) > 1:
            prompts.sort(key=lambda row: rank_of(row, row.level))
        for row in prompts:
            length = min(row.num_remaining, budget)
            if length > 0:
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
