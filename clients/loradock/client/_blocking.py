"""Work that blocks, for a client on an event loop and for one in a plain thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Do blocking work without holding up the event loop."""
    return await asyncio.to_thread(work, *args, **kwargs)


def in_place(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Do blocking work here and now: the synchronous twin of `in_thread`."""
    return work(*args, **kwargs)
