"""The page that Prometheus reads: plain HTTP on a port of its own, on threads of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from loradock.server.errors import StartRefused

ANSWER_S = 5.0  # within which the event loop must tell its state

Read = Callable[[], Iterable[Metric]]


class MetricsPage:
    """One open page: what was counted, and the state as it is when somebody asks."""

    def __init__(self, address: str, counted: CollectorRegistry, read_state: Read) -> None:
        """Listen on `host:port`. From the event loop's thread; raises StartRefused."""
        counted.register(_OnLoop(asyncio.get_running_loop(), read_state))
        host, _, port = address.rpartition(":")
        try:
            self._server, self._thread = start_http_server(int(port), host.strip("[]"), counted)
        except OSError as error:
            why = error.strerror or error
            raise StartRefused(f"metrics_address: can't listen on {address}: {why}") from error
        self.address = f"{host}:{self._server.server_port}"

    async def close(self) -> None:
        """Stop listening."""
        await asyncio.to_thread(self._server.shutdown)
        self._server.server_close()
        self._thread.join()


class _OnLoop(Collector):
    """Reads the state where it belongs: on the event loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, read: Read) -> None:
        self._loop = loop
        self._read = read

    def describe(self) -> Iterable[Metric]:
        """Say nothing of what there will be: it is not known before."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Read it, and wait for it."""

        async def read() -> list[Metric]:
            return list(self._read())

        return asyncio.run_coroutine_threadsafe(read(), self._loop).result(ANSWER_S)
