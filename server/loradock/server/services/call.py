"""The call that is being answered: who asks, until when, and what is known of it so far.

It travels in a context variable, so that every log line of a request can say which it is of.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from loradock.engine.protocol import Priority
from loradock.server.errors import Stage
from loradock.server.services.principal import Principal


@dataclass(slots=True)
class Call:
    """One call. Only its own task changes it."""

    method: str  # "/loradock.v1.InferenceService/Generate"
    request_id: str
    principal: Principal
    deadline: float  # on the clock of time.monotonic
    started: float = field(default_factory=time.monotonic)
    facts: dict[str, object] = field(default_factory=dict)  # what log lines tell of it
    task: asyncio.Task[object] | None = field(default_factory=asyncio.current_task)
    interruption: Exception | None = None
    priority: Priority = Priority.NORMAL
    stage: Stage = "arrival"  # what it is at, as a missed deadline tells it
    is_of_base: bool = False  # once it is known that the bare base answers
    repeat_key: bytes | None = None  # the same for a call that asks the same under the same id

    @contextmanager
    def at(self, stage: Stage) -> Iterator[None]:
        """Be at a stage for a while."""
        before, self.stage = self.stage, stage
        yield
        self.stage = before

    @property
    def remaining_s(self) -> float:
        """Seconds until the deadline."""
        return max(0.0, self.deadline - time.monotonic())

    @property
    def elapsed_s(self) -> float:
        """Seconds since the call came in."""
        return time.monotonic() - self.started

    @property
    def log_facts(self) -> dict[str, object]:
        """What every log line of it says, as it is known now."""
        return {"request_id": self.request_id, "project": self.principal.project, **self.facts}

    def interrupt(self, error: Exception) -> None:
        """End the call with an error, wherever it waits: even for its reader."""
        if self.interruption is None and self.task is not None:
            self.interruption = error
            self.task.cancel()


_current: ContextVar[Call] = ContextVar("loradock_call")


def current_call() -> Call:
    """Give the call that this task answers."""
    return _current.get()


def current_call_or_none() -> Call | None:
    """Give the call that this task answers, if it answers one."""
    return _current.get(None)


def enter_call(call: Call) -> None:
    """Make `call` the one that this task answers, until the task ends."""
    _current.set(call)
