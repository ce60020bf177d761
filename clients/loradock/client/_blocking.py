"""Work that blocks, waits or goes on side by side: on an event loop, and in plain threads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
ItemT = TypeVar("ItemT")  # an item


async def in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Do blocking work without holding up the event loop."""
    return await asyncio.to_thread(work, *args, **kwargs)


def in_place(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Do blocking work here and now: the synchronous twin of `in_thread`."""
    return work(*args, **kwargs)


async def pause(seconds: float) -> None:
    """Wait without holding up the event loop."""
    await asyncio.sleep(seconds)


def pause_in_place(seconds: float) -> None:
    """Wait here: the synchronous twin of `pause`."""
    time.sleep(seconds)


async def side_by_side(
    work: Callable[[ItemT], Awaitable[T]], items: Sequence[ItemT], at_once: int
) -> list[T]:
    """Do work for each item, some at once; the first error ends the others."""
    turn = asyncio.Semaphore(at_once)

    async def in_turn(item: ItemT) -> T:
        async with turn:
            return await work(item)

    tasks = [asyncio.ensure_future(in_turn(item)) for item in items]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def in_threads(work: Callable[[ItemT], T], items: Sequence[ItemT], at_once: int) -> list[T]:
    """Do work for each item on some threads: the synchronous twin of `side_by_side`."""
    if len(items) < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(at_once, thread_name_prefix="loradock-transfer") as pool:
        try:
            contexts = [copy_context() for _ in items]  # the caller's, as tasks get it
            return list(pool.map(lambda context, item: context.run(work, item), contexts, items))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
