"""Between the event loop and the engine's step thread: work goes one way, events come the other.

The step thread hands over one batch a step; every row gets its own share in a bounded queue. A row
that is left before its end is cancelled, so that nothing runs for a caller who has gone.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager

from loradock.engine.protocol import Engine, Failure, Finish, RowEvent, Work
from loradock.server.errors import (
    Cancelled,
    DeadlineExceeded,
    EngineFailed,
    SlowReader,
)


class Row:
    """One row's events, in order. Read by one task, written by the loop's callbacks."""

    def __init__(self, max_waiting_tokens: int, on_overrun: Callable[[Exception], None]) -> None:
        self._on_overrun = on_overrun
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._max_waiting_tokens = max_waiting_tokens
        self._events: deque[RowEvent] = deque()
        self._num_waiting_tokens = 0
        self._arrived = asyncio.Event()
        self.is_overrun = False
        self._is_left = False

    def push(self, event: RowEvent) -> None:
        """Queue an event; past the bound the row is overrun, but not by its last event."""
        if event.finish is not None and not self.ended.done():
            self.ended.set_result(None)
        if self._is_left:
            return
        self._num_waiting_tokens += len(event.tokens)
        is_past = self._num_waiting_tokens > self._max_waiting_tokens
        if is_past and event.finish is None and not self.is_overrun:
            self.is_overrun = True
            self._events.clear()
            self._on_overrun(SlowReader(self._max_waiting_tokens))
        elif not self.is_overrun:
            self._events.append(event)
        self._arrived.set()

    def leave(self) -> None:
        """Read no more: what still comes is dropped, and overruns nobody."""
        self._is_left = True
        self._events.clear()

    async def events(self) -> AsyncIterator[RowEvent]:
        """Give events until the last one; raise what became of the row if it did not end well."""
        while True:
            for event in await self._next():
                _raise_for(event)
                yield event
                if event.finish is not None:
                    return

    async def _next(self) -> list[RowEvent]:
        while not self._events and not self.is_overrun:
            self._arrived.clear()
            await self._arrived.wait()
        if self.is_overrun:
            raise SlowReader(self._max_waiting_tokens)
        events, self._num_waiting_tokens = list(self._events), 0
        self._events.clear()
        return events


class Bridge:
    """All rows of one engine. Belongs to the event loop's thread, but for `_sink`."""

    def __init__(self, engine: Engine, *, max_waiting_tokens: int) -> None:
        self._engine = engine
        self._max_waiting_tokens = max_waiting_tokens
        self._rows: dict[str, Row] = {}
        self._loop = asyncio.get_running_loop()
        self._is_closed = False
        self.on_engine_stopped: Callable[[], None] = lambda: None

    def start(self) -> None:
        """Start the engine's steps."""
        self._engine.start(self._sink)

    def close(self) -> None:
        """Let no more events in: the loop is about to end."""
        self._is_closed = True

    @property
    def num_rows(self) -> int:
        """Rows that run or wait."""
        return len(self._rows)

    @contextmanager
    def row(self, work: Work, on_overrun: Callable[[Exception], None]) -> Iterator[Row]:
        """Submit work and be its reader; leaving before its end cancels it."""
        row = Row(self._max_waiting_tokens, on_overrun)
        self._rows[work.row] = row
        try:
            self._engine.submit(work)
        except BaseException:
            del self._rows[work.row]
            raise
        try:
            yield row
        finally:
            row.leave()
            if not row.ended.done():
                self._engine.cancel(work.row)

    def _sink(self, events: Sequence[RowEvent]) -> None:
        if not self._is_closed:
            self._loop.call_soon_threadsafe(self._deliver, events)

    def _deliver(self, events: Sequence[RowEvent]) -> None:
        for event in events:
            row = self._rows.get(event.row)
            if row is None:
                continue
            row.push(event)
            if event.finish is not None:
                del self._rows[event.row]
            elif row.is_overrun:
                self._engine.cancel(event.row)
        if not events or events[-1].failure is Failure.ENGINE:  # the engine's last words
            self.on_engine_stopped()


def _raise_for(event: RowEvent) -> None:
    if event.finish is Finish.EXPIRED:
        raise DeadlineExceeded("batch" if event.queued_s is None else "queue")
    if event.finish is Finish.CANCELLED:
        raise Cancelled
    if event.finish is Finish.FAILED:
        raise EngineFailed(event.failure or Failure.COMPUTE)
