"""Where blocking work goes: a bounded pool of threads, so that the event loop never waits."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from functools import partial
from typing import Any, ParamSpec, TypeVar

log = logging.getLogger(__name__)

PREFIX = "loradock-"
CLOSE_S = 3.0

P = ParamSpec("P")
T = TypeVar("T")


class Threads:
    """A pool for the registry's and the file system's calls."""

    def __init__(self, name: str, num_threads: int) -> None:
        self._name = f"{PREFIX}{name}"
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix=self._name)
        self._running: set[Future[Any]] = set()

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `function` on a thread; a cancelled caller does not wait for its end."""
        bound = partial(copy_context().run, function, *args, **kwargs)
        running = self._pool.submit(bound)
        self._running.add(running)
        running.add_done_callback(self._running.discard)
        return await asyncio.wrap_future(running)

    async def close(self) -> None:
        """Take no more work, and wait a while for what runs: it may hold a connection."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        _, hanging = await asyncio.to_thread(wait, list(self._running), CLOSE_S)
        if hanging:
            log.warning("left behind what hangs", extra={"facts": {"threads": self._name}})
        else:
            await asyncio.to_thread(self._pool.shutdown)


def any_hangs() -> bool:
    """Whether a thread of a closed pool does not come to its end."""
    ours = [thread for thread in threading.enumerate() if thread.name.startswith(PREFIX)]
    for thread in ours:
        thread.join(0.5)
    return any(thread.is_alive() for thread in ours)
