"""Running servers: the one that answers, and what the others last told."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

from loradock.client._async.calls import AsyncCalls, RequestT
from loradock.client._names import alias_name, parse_reference, project_name
from loradock.client._values.server import LiveAlias, Residency, Server, ServerStatus
from loradock.client._wire.built import built
from loradock.client._wire.scalars import duration
from loradock.client._wire.server import (
    live_alias_of,
    residency_of,
    server_of,
    server_status_of,
)
from loradock.v1 import server_service_pb2 as wire
from loradock.v1.server_service_pb2_grpc import ServerServiceStub


class AsyncServers:
    """The server that answers, and its peers."""

    def __init__(self, calls: AsyncCalls) -> None:
        self._calls = calls
        self._stub = ServerServiceStub(calls.channel)

    async def status(self) -> ServerStatus:
        """Describe the server that answers."""
        return server_status_of(
            await self._calls.unary(self._stub.GetServer, wire.GetServerRequest())
        )

    def list(self, *, page_size: int = 0) -> AsyncIterator[Server]:
        """List the servers whose heartbeats the catalog holds."""
        request = built(wire.ListServersRequest, page_size=page_size)
        return self._calls.pages(
            self._stub.ListServers, request, lambda page: page.servers, server_of
        )

    async def load(self, reference: str, *, timeout_s: float | None = None) -> Residency:
        """Make a version resident on the server that answers. Idempotent."""
        request = self._meant(wire.LoadAdapterRequest, reference)
        response = await self._calls.unary(self._stub.LoadAdapter, request, timeout_s=timeout_s)
        return residency_of(response.residency)

    async def prefetch(self, reference: str, *, timeout_s: float | None = None) -> Residency:
        """Bring a version's weights to the disk of the server that answers. Idempotent."""
        request = self._meant(wire.PrefetchAdapterRequest, reference)
        method = self._stub.PrefetchAdapter
        return residency_of(
            (await self._calls.unary(method, request, timeout_s=timeout_s)).residency
        )

    async def pin(self, reference: str, *, timeout_s: float | None = None) -> Residency:
        """Make a version resident, and keep it so until it is unpinned or the server ends.

        A pinned alias keeps whatever it is answered with. Idempotent.
        """
        request = self._meant(wire.PinAdapterRequest, reference)
        method = self._stub.PinAdapter
        return residency_of(
            (await self._calls.unary(method, request, timeout_s=timeout_s)).residency
        )

    async def unpin(self, reference: str) -> Residency:
        """Take a pin back, by the reference that was pinned. Idempotent."""
        request = self._meant(wire.UnpinAdapterRequest, reference)
        return residency_of((await self._calls.unary(self._stub.UnpinAdapter, request)).residency)

    def _meant(self, kind: Callable[..., RequestT], reference: str) -> RequestT:
        wanted = parse_reference(reference, self._calls.project)
        return built(kind, parent=project_name(wanted.project), reference=wanted.text)

    async def drain(self, *, wait_s: float = 10.0, exit: bool = False) -> int:
        """Take the server that answers out of traffic; give how many requests still run.

        Health says NOT_SERVING and new requests are refused, but for those of this class. Wait so
        long for what runs. With `exit` the process then ends, as it does at SIGTERM. Idempotent.
        """
        request = built(wire.DrainServerRequest, drain_timeout=duration(wait_s), exit=exit)
        response = await self._calls.unary(self._stub.DrainServer, request, longer_s=wait_s)
        return response.num_inside

    async def undrain(self) -> None:
        """Take the server that answers back into traffic. Idempotent."""
        await self._calls.unary(self._stub.UndrainServer, wire.UndrainServerRequest())

    async def unload(self, digest: str, *, drain_s: float = 10.0) -> Residency:
        """Let a version go once its last request has ended; wait for that for `drain_s`."""
        request = built(
            wire.UnloadAdapterRequest, version_digest=digest, drain_timeout=duration(drain_s)
        )
        response = await self._calls.unary(self._stub.UnloadAdapter, request, longer_s=drain_s)
        return residency_of(response.residency)

    async def override(
        self, adapter: str, alias: str, *, to: str | None = None, reason: str
    ) -> LiveAlias:
        """Make this server answer an alias with another resident version, by digest.

        Without `to`, with the one that the alias would roll back to. For when the catalog is down:
        audited, reported as divergent, and reconciled when the catalog is back.
        """
        target: dict[str, Any] = {"previous": True} if to is None else {"version_digest": to}
        request = built(
            wire.OverrideAliasRequest,
            name=alias_name(adapter, alias, self._calls.project),
            reason=reason,
            **target,
        )
        response = await self._calls.unary(self._stub.OverrideAlias, request)
        return live_alias_of(response.live_alias)
