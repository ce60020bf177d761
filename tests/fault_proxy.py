"""A TCP proxy whose faults are switched while traffic runs: what a bad network does to a service.

with FaultProxy.of_store(blob_url) as (proxy, blob_url_through_it):
    proxy.delay(0.3)
    proxy.pass_on()
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit, urlunsplit

CHUNK_BYTES = 16 << 10
HTTP_VERBS = (b"GET ", b"HEAD ", b"PUT ", b"POST ", b"DELETE ")


@dataclass(frozen=True)
class Fault:
    """What is done to traffic. An answer is what comes back until the client sends again."""

    delay_s: float = 0.0  # before each answer
    bytes_per_s: float | None = None  # of all answers together on one connection
    corrupt_beyond: int | None = None  # one bit is flipped in each chunk beyond so many bytes
    cut_beyond: int | None = None  # the connection breaks within an answer, after so many bytes
    refuses: bool = False  # nobody listens, and what was connected is cut
    hangs: bool = False  # connections are taken, and nothing comes through


class FaultProxy:
    """Stands between clients and one service. May be used from any thread but its own."""

    def __init__(self, upstream: tuple[str, int] | str) -> None:
        """`upstream` is a host and a port, or the path of a Unix socket."""
        self._upstream = upstream
        self._fault = Fault()
        self._changed = asyncio.Event()
        self._open: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy")
        self.port = 0
        self.requests: list[str] = []  # the first line of each HTTP request that came by
        self.num_connections = 0
        self.num_bytes_asked = 0
        self.num_bytes_answered = 0

    @classmethod
    @contextmanager
    def of_store(cls, blob_url: str) -> Iterator[tuple[FaultProxy, str]]:
        """Stand before an `s3://…?endpoint_url=…`; give the URL that leads through the proxy."""
        parts = urlsplit(blob_url)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        endpoint = urlsplit(query["endpoint_url"])
        assert endpoint.hostname and endpoint.port
        with cls((endpoint.hostname, endpoint.port)) as proxy:
            query["endpoint_url"] = f"http://{proxy.address}"
            yield proxy, urlunsplit(parts._replace(query=urlencode(query)))

    @classmethod
    @contextmanager
    def of_database(cls, database_url: str) -> Iterator[tuple[FaultProxy, str]]:
        """Stand before a PostgreSQL server; give the URL that leads through the proxy."""
        parts = urlsplit(database_url)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        folder, port = query.pop("host", None), parts.port or 5432
        upstream = f"{folder}/.s.PGSQL.{port}" if folder else (parts.hostname or "", port)
        user = f"{quote(parts.username or '')}:{quote(parts.password or '')}@"
        with cls(upstream) as proxy:
            place = user + proxy.address
            yield proxy, urlunsplit(parts._replace(netloc=place, query=urlencode(query)))

    @property
    def address(self) -> str:
        """Where to connect instead."""
        return f"127.0.0.1:{self.port}"

    def pass_on(self) -> None:
        """No fault: what was held back goes on."""
        self.set(Fault())

    def delay(self, seconds: float) -> None:
        """Keep each answer waiting: a far or a busy service."""
        self.set(Fault(delay_s=seconds))

    def throttle(self, bytes_per_s: float) -> None:
        """Let answers come through slowly."""
        self.set(Fault(bytes_per_s=bytes_per_s))

    def corrupt(self, beyond: int = 2048) -> None:
        """Flip bits in answers, beyond their first bytes (where HTTP has its headers)."""
        self.set(Fault(corrupt_beyond=beyond))

    def refuse(self) -> None:
        """As if the service was not running."""
        self.set(Fault(refuses=True))

    def hang(self) -> None:
        """As if the network swallowed everything."""
        self.set(Fault(hangs=True))

    def cut(self, beyond: int | None = None) -> None:
        """Break all connections now; or each one within its next answer, beyond so many bytes."""
        if beyond is None:
            self._call(self._cut_all)
        else:
            self.set(Fault(cut_beyond=beyond))

    def set(self, fault: Fault) -> None:
        """Switch; done when it returns."""
        self._call(lambda: self._switch(fault))

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        self._call(self._listen)
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, make: Callable[[], Coroutine[Any, Any, None]]) -> None:
        asyncio.run_coroutine_threadsafe(make(), self._loop).result(10)

    async def _switch(self, fault: Fault) -> None:
        self._fault = fault
        self._changed.set()
        self._changed = asyncio.Event()
        if fault.refuses:
            await self._deafen()
            await self._cut_all()
        elif self._server is None:
            await self._listen()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _deafen(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _close(self) -> None:
        await self._deafen()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _cut_all(self) -> None:
        for writer in self._open:
            _reset(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.num_connections += 1
        try:
            with suppress(OSError, asyncio.CancelledError):
                async with self._kept(writer):
                    await self._through()
                    up_reader, up_writer = await self._connect()
                    async with self._kept(up_writer):
                        await _Connection(self).run((reader, writer), (up_reader, up_writer))
        finally:
            self._tasks.discard(task)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self._upstream, str):
            return await asyncio.open_unix_connection(self._upstream)
        return await asyncio.open_connection(*self._upstream)

    @asynccontextmanager
    async def _kept(self, writer: asyncio.StreamWriter) -> AsyncIterator[None]:
        self._open.add(writer)
        try:
            yield
        finally:
            self._open.discard(writer)
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _through(self) -> Fault:
        """Wait until something may come through; give what else is to be done to it."""
        while self._fault.hangs:
            await self._changed.wait()
        return self._fault

    async def _wait(self, seconds: float) -> None:
        """Wait, but not longer than the fault lasts."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()


class _Connection:
    """One client's connection; a friend of its proxy."""

    def __init__(self, proxy: FaultProxy) -> None:
        self._proxy = proxy
        self._num_answered = 0  # bytes of the present answer

    async def run(self, client: _Streams, upstream: _Streams) -> None:
        """Carry both ways until one side is gone, and then let the other go too."""
        ways = [
            asyncio.create_task(self._ask(client[0], upstream[1])),
            asyncio.create_task(self._answer(upstream[0], client[1])),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(CHUNK_BYTES):
            if chunk.startswith(HTTP_VERBS):
                self._proxy.requests.append(chunk.split(b"\r\n", 1)[0].decode("latin-1"))
            self._num_answered = 0
            self._proxy.num_bytes_asked += len(chunk)
            await self._proxy._through()
            writer.write(chunk)
            await writer.drain()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(CHUNK_BYTES):
            fault = await self._proxy._through()
            if fault.delay_s and not self._num_answered:
                await self._proxy._wait(fault.delay_s)
            for part in _parts(chunk, fault.bytes_per_s):
                sent = self._damaged(part, fault)
                writer.write(sent)
                await writer.drain()
                self._num_answered += len(sent)
                self._proxy.num_bytes_answered += len(sent)
                if fault.cut_beyond is not None and self._num_answered >= fault.cut_beyond:
                    _reset(writer)
                    return
                if fault.bytes_per_s:
                    await self._proxy._wait(len(sent) / fault.bytes_per_s)

    def _damaged(self, part: bytes, fault: Fault) -> bytes:
        if fault.cut_beyond is not None:
            part = part[: max(fault.cut_beyond - self._num_answered, 0)]
        if fault.corrupt_beyond is None:
            return part
        at = max(fault.corrupt_beyond - self._num_answered, 0)
        if at >= len(part):
            return part
        return part[:at] + bytes([part[at] ^ 0x10]) + part[at + 1 :]


_Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def _parts(chunk: bytes, bytes_per_s: float | None) -> Iterator[bytes]:
    """Cut a chunk so small that a slow answer comes little by little."""
    size = len(chunk) if bytes_per_s is None else max(int(bytes_per_s / 20), 1)
    for start in range(0, len(chunk), size):
        yield chunk[start : start + size]


def _reset(writer: asyncio.StreamWriter) -> None:
    """Break a connection as a crash does: the other side gets a reset, not an end."""
    peer = writer.get_extra_info("socket")
    if peer is not None and peer.family != socket.AF_UNIX:
        with suppress(OSError):
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
