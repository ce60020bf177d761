"""Lets a split's candidate compute what the incumbent has answered already, where nobody waits.

One at a time, at the lowest priority, in a place that no caller needs: who comes to wait for it
ends the shadow. What is kept is how long it took, whether it failed and whether it agreed; of what
was asked and answered, nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from loradock.engine.protocol import Engine, Priority
from loradock.registry.split import Arm
from loradock.server.aliases.arm_traffic import ArmTraffic
from loradock.server.answering.answer import Answered, Answering
from loradock.server.answering.progress import Progress
from loradock.server.services.call import Call, enter_call

log = logging.getLogger(__name__)

MAX_QUEUED = 8
MAX_AGE_S = 10.0  # then it is dropped: it is not of this stage's traffic any more
MAX_S = 60.0  # then it is dropped: how long it waits for room says nothing of the candidate
LOOK_S, LOOKS_IN_THE_WAY = 0.02, 2  # how a running shadow finds that somebody waits for its place

# Compute it again, with the candidate; give after how many tokens the two differ, None if they
# don't.
Compute = Callable[[Answered, Progress, Call], Awaitable[int | None]]


@dataclass(frozen=True, slots=True)
class _Shadow:
    """What is to be computed: an answered request of a split."""

    answered: Answered
    call: Call
    compute: Compute
    offered_at: float


class Shadows:
    """The shadows of one server. Belongs to the event loop's thread."""

    def __init__(
        self, engine: Engine, answering: Answering, traffic: ArmTraffic, *, max_rows: int
    ) -> None:
        self._engine = engine
        self._max_rows = max_rows
        self._answering = answering
        self._traffic = traffic
        self._queue: deque[_Shadow] = deque()
        self._arrived = asyncio.Event()

    def offer(self, answered: Answered, call: Call, compute: Compute) -> None:
        """Take an answered request, if its split samples it. Never waits, never raises."""
        split = answered.split
        if split is None or answered.arm is not Arm.INCUMBENT:
            return
        if not split.split.is_shadowed(call.request_id):
            return
        if len(self._queue) >= MAX_QUEUED:
            self._drop(answered)
            return
        self._queue.append(_Shadow(answered, call, compute, time.monotonic()))
        self._arrived.set()

    async def run(self) -> None:
        """Compute until cancelled."""
        while True:
            while not self._queue:
                self._arrived.clear()
                await self._arrived.wait()
            shadow = self._queue.popleft()
            if self._has_no_room(0) or shadow.offered_at + MAX_AGE_S < time.monotonic():
                self._drop(shadow.answered)
            else:
                await self._compute_unless_in_the_way(shadow)

    def _has_no_room(self, num_own: int) -> bool:
        """Whether callers need all places, or one of them waits beside our own row."""
        state = self._engine.state()
        num_rows = state.num_running + state.num_waiting - num_own
        return num_rows >= self._max_rows or state.num_waiting > num_own

    def _drop(self, answered: Answered) -> None:
        self._traffic.counts(answered, Arm.SHADOW).num_dropped += 1

    async def _compute_unless_in_the_way(self, shadow: _Shadow) -> None:
        task = asyncio.create_task(self._compute(shadow))
        num_looks = 0  # at which it was in the way; a row that comes waits for its first step
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=LOOK_S)
                num_looks = num_looks + 1 if self._has_no_room(1) else 0
                if num_looks == LOOKS_IN_THE_WAY:
                    task.cancel()
        finally:
            task.cancel()
        if task.cancelled():
            self._drop(shadow.answered)

    async def _compute(self, shadow: _Shadow) -> None:
        answered = replace(shadow.answered, arm=Arm.SHADOW, lease=None)
        call, progress = self._call_of(shadow), Progress()
        enter_call(call)
        try:
            async with asyncio.timeout(MAX_S):
                with self._traffic.count(answered, progress, call):
                    async with self._answering.shadowing(answered, progress, call) as candidate:
                        after = await shadow.compute(candidate, progress, call)
        except TimeoutError:
            self._drop(answered)
        except Exception as error:
            log.info("shadow failed: %s", type(error).__name__)
        else:
            self._count(answered, after)

    def _call_of(self, shadow: _Shadow) -> Call:
        """Make the shadow's call, of the task that computes it: same id, so the same draws."""
        of = shadow.call
        deadline = time.monotonic() + 2 * MAX_S  # which it never reaches
        call = Call(of.method, of.request_id, of.principal, deadline)
        call.priority = Priority.LOW
        assert shadow.answered.split is not None
        candidate = shadow.answered.split.candidate
        call.facts |= {
            **of.facts,
            "version": candidate.number,
            "digest": candidate.digest,
            "arm": Arm.SHADOW.value,
        }
        return call

    def _count(self, answered: Answered, after: int | None) -> None:
        counts = self._traffic.counts(answered, Arm.SHADOW)
        if after is None:
            counts.num_agreed += 1
        else:
            counts.num_differed += 1
            counts.tokens_before_difference += after
        facts = {"agrees": after is None, "differs_after_tokens": after}
        log.info("shadow computed", extra={"facts": facts})


def num_alike(one: Sequence[int], other: Sequence[int]) -> int:
    """Count the tokens that two answers begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(one), len(other)))
