"""ServerService: this server, the others as the catalog knows them, and what is resident here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version as release_of

from loradock.engine.protocol import BaseInfo, Engine
from loradock.registry.errors import InvalidArgument
from loradock.registry.names import check_digest
from loradock.registry.registry import Registry
from loradock.server import convert_server as convert
from loradock.server import names
from loradock.server.blobs import MAX_CHUNK_BYTES
from loradock.server.call import current_call
from loradock.server.config import Config
from loradock.server.errors import NoEngine, NotResidentHere
from loradock.server.fields import page_size, seconds_of
from loradock.server.heartbeat import Pulse
from loradock.server.live import Live
from loradock.server.override import Overrides
from loradock.server.principal import Role
from loradock.server.residency import Residencies
from loradock.server.threads import Threads
from loradock.v1 import server_service_pb2 as wire
from loradock.v1 import server_service_pb2_grpc as grpc_wire

POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Inside:
    """What an inference server has inside, for those who look at it."""

    engine: Engine
    live: Live
    residencies: Residencies
    pulse: Pulse
    overrides: Overrides
    check_base: Callable[..., None]


class ServerService(grpc_wire.ServerServiceServicer):
    """Shows and steers one running server."""

    def __init__(
        self, inside: Inside | None, registry: Registry, threads: Threads, limits: wire.ServerLimits
    ) -> None:
        self._inside_or_none = inside
        self._registry = registry
        self._threads = threads
        self._limits = limits

    @property
    def _inside(self) -> Inside:
        if self._inside_or_none is None:
            raise NoEngine
        return self._inside_or_none

    async def GetServer(
        self, request: wire.GetServerRequest, context: object
    ) -> wire.GetServerResponse:
        """Describe this server."""
        principal = current_call().principal
        principal.require(Role.VIEW)
        state = self._inside.engine.state()
        return wire.GetServerResponse(
            server=convert.server(self._inside.pulse.heartbeat()),
            release=release_of("loradock"),
            engine_profile=self._inside.engine.base.profile,
            limits=self._limits,
            live_aliases=[
                convert.live_alias(key, live)
                for key, live in self._inside.live.table.items()
                if key[0] == principal.project
            ],
            num_running_rows=state.num_running,
            num_waiting_rows=state.num_waiting,
        )

    async def ListServers(
        self, request: wire.ListServersRequest, context: object
    ) -> wire.ListServersResponse:
        """List the servers that the catalog has heard of lately."""
        current_call().principal.require(Role.VIEW)
        size = page_size(request.page_size)
        beats = await self._threads.run(self._registry.fleet.list)
        beats = [beat for beat in beats if beat.server_id > request.page_token]
        is_last = len(beats) <= size
        return wire.ListServersResponse(
            servers=[convert.server(beat) for beat in beats[:size]],
            next_page_token="" if is_last else beats[size - 1].server_id,
        )

    async def LoadAdapter(
        self, request: wire.LoadAdapterRequest, context: object
    ) -> wire.LoadAdapterResponse:
        """Make a version resident."""
        parent = names.project_of(request.parent, Role.OPERATE)
        project, reference = names.reference_of(request.reference, parent)
        resolved = await self._inside.live.resolve(project, reference)
        self._inside.check_base(resolved.version)
        await self._inside.residencies.bring_in(resolved.version)
        residency = self._inside.residencies.report_of(resolved.version.digest)
        return wire.LoadAdapterResponse(residency=convert.residency_message(residency))

    async def UnloadAdapter(
        self, request: wire.UnloadAdapterRequest, context: object
    ) -> wire.UnloadAdapterResponse:
        """Let a version go; wait a while for its running requests."""
        principal = current_call().principal
        principal.require(Role.OPERATE)
        digest = check_digest("version_digest", request.version_digest)
        wait_s = seconds_of("drain_timeout", request.drain_timeout)
        residencies = self._inside.residencies
        version = residencies.version(digest)
        if version is None or version.project != principal.project:
            raise NotResidentHere(digest)
        residencies.let_go(digest)
        give_up_at = asyncio.get_running_loop().time() + wait_s
        while residencies.version(digest) and asyncio.get_running_loop().time() < give_up_at:
            await asyncio.sleep(POLL_S)
        residency = residencies.report_of(digest)
        return wire.UnloadAdapterResponse(residency=convert.residency_message(residency))

    async def OverrideAlias(
        self, request: wire.OverrideAliasRequest, context: object
    ) -> wire.OverrideAliasResponse:
        """Answer an alias with another resident version while the catalog is down."""
        key = names.alias_of(request.name, Role.PROMOTE)
        digest: str | None = None
        if request.WhichOneof("to") == "version_digest":
            digest = check_digest("version_digest", request.version_digest)
        elif not request.previous:
            raise InvalidArgument("to", "name a version's digest, or say previous = true")
        live = await self._inside.overrides.override(
            key, digest, request.reason, current_call().principal.subject
        )
        self._inside.pulse.nudge()
        return wire.OverrideAliasResponse(live_alias=convert.live_alias(key, live))


def limits_of(config: Config, base: BaseInfo | None, max_blob_bytes: int) -> wire.ServerLimits:
    """Collect the numbers that requests are refused by."""
    return wire.ServerLimits(
        max_message_bytes=config.max_message_bytes,
        max_chunk_bytes=MAX_CHUNK_BYTES,
        max_blob_bytes=max_blob_bytes,
        context_length_tokens=0 if base is None else base.context_length,
        max_running_rows=0 if base is None else config.max_running_rows,
    )
