"""ServerService: this server, the others as the catalog knows them, and what is resident here."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from importlib.metadata import version as release_of

from loradock.engine.protocol import BaseInfo
from loradock.registry.errors import InvalidArgument
from loradock.registry.names import check_digest
from loradock.registry.registry import Registry
from loradock.registry.resources import Version
from loradock.server.blobs import MAX_CHUNK_BYTES
from loradock.server.config import Config
from loradock.server.errors import AdapterPinned, NoEngine, NotResidentHere
from loradock.server.inside import Inside
from loradock.server.residency.pins import Pin
from loradock.server.services import convert_server as convert
from loradock.server.services import names
from loradock.server.services.call import current_call
from loradock.server.services.fields import page_size, seconds_of
from loradock.server.services.principal import Role
from loradock.server.threads import Threads
from loradock.server.traffic import Traffic
from loradock.v1 import server_service_pb2 as wire
from loradock.v1 import server_service_pb2_grpc as grpc_wire

POLL_S = 0.02
SHARE_OF_DEADLINE = 0.9  # that may go by in waiting for memory; the rest is to say so


class ServerService(grpc_wire.ServerServiceServicer):
    """Shows and steers one running server."""

    def __init__(
        self,
        inside: Inside | None,
        registry: Registry,
        threads: Threads,
        limits: wire.ServerLimits,
        traffic: Traffic,
    ) -> None:
        self._inside_or_none = inside
        self._registry = registry
        self._threads = threads
        self._limits = limits
        self._traffic = traffic

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
        inside, project = self._inside, principal.project
        state = inside.engine.state()
        server = convert.server(inside.pulse.heartbeat(), project)
        del server.residencies[:]
        server.residencies.extend(convert.places(inside, project))
        return wire.GetServerResponse(
            server=server,
            release=release_of("loradock"),
            engine_profile=inside.engine.base.profile,
            limits=self._limits,
            live_aliases=[
                convert.live_alias(key, live, inside.live)
                for key, live in inside.live.table.items()
                if key[0] == project
            ],
            num_running_rows=state.num_running,
            num_waiting_rows=state.num_waiting,
            degraded=inside.health.degraded(project),
            drained=self._traffic.is_drained,
            memory=convert.memory(inside.residencies),
            disk=convert.disk(inside.residencies.cache),
            engine_use=convert.engine_use(state),
        )

    async def ListServers(
        self, request: wire.ListServersRequest, context: object
    ) -> wire.ListServersResponse:
        """List the servers that the catalog has heard of lately."""
        principal = current_call().principal
        principal.require(Role.VIEW)
        size = page_size(request.page_size)
        beats = await self._threads.run(self._registry.fleet.list)
        beats = [beat for beat in beats if beat.server_id > request.page_token]
        is_last = len(beats) <= size
        return wire.ListServersResponse(
            servers=[convert.server(beat, principal.project) for beat in beats[:size]],
            next_page_token="" if is_last else beats[size - 1].server_id,
        )

    async def LoadAdapter(
        self, request: wire.LoadAdapterRequest, context: object
    ) -> wire.LoadAdapterResponse:
        """Make a version resident."""
        _, version = await self._meant(request.parent, request.reference)
        await self._bring_in(version)
        return wire.LoadAdapterResponse(residency=self._told(version))

    async def PrefetchAdapter(
        self, request: wire.PrefetchAdapterRequest, context: object
    ) -> wire.PrefetchAdapterResponse:
        """Have a version's weights on disk."""
        _, version = await self._meant(request.parent, request.reference)
        await self._inside.residencies.prefetch(version)
        return wire.PrefetchAdapterResponse(residency=self._told(version))

    async def PinAdapter(
        self, request: wire.PinAdapterRequest, context: object
    ) -> wire.PinAdapterResponse:
        """Make a version resident, and keep it so."""
        pin, version = await self._meant(request.parent, request.reference)
        await self._bring_in(version)
        self._inside.pins.add(pin)
        return wire.PinAdapterResponse(residency=self._told(version))

    async def UnpinAdapter(
        self, request: wire.UnpinAdapterRequest, context: object
    ) -> wire.UnpinAdapterResponse:
        """Take a pin back."""
        pin, version = await self._meant(request.parent, request.reference)
        self._inside.pins.remove(pin)
        return wire.UnpinAdapterResponse(residency=self._told(version))

    async def _meant(self, parent: str, text: str) -> tuple[Pin, Version]:
        """Resolve what an operator speaks of; refused if it is of another base."""
        inside = self._inside
        project, reference = names.reference_of(text, names.project_of(parent, Role.OPERATE))
        version = (await inside.live.resolve(project, reference)).version
        inside.check_base(version)
        return Pin(project, replace(reference, project=None)), version

    async def _bring_in(self, version: Version) -> None:
        wait_s = current_call().remaining_s * SHARE_OF_DEADLINE
        await self._inside.residencies.bring_in(version, room_wait_s=wait_s)

    def _told(self, version: Version) -> wire.Residency:
        return convert.place(self._inside, self._inside.residencies.place(version))

    async def UnloadAdapter(
        self, request: wire.UnloadAdapterRequest, context: object
    ) -> wire.UnloadAdapterResponse:
        """Let a version go; wait a while for its running requests."""
        principal = current_call().principal
        principal.require(Role.OPERATE)
        digest = check_digest("version_digest", request.version_digest)
        wait_s = seconds_of("drain_timeout", request.drain_timeout)
        residencies, project = self._inside.residencies, principal.project
        versions = residencies.versions(project, digest)
        if not versions:
            raise NotResidentHere(digest)
        if any(map(self._inside.pins.is_pinned, versions)):
            raise AdapterPinned(digest)
        for version in versions:
            residencies.let_go(version)
        give_up_at = asyncio.get_running_loop().time() + wait_s
        while residencies.versions(project, digest):
            if asyncio.get_running_loop().time() >= give_up_at:
                break
            await asyncio.sleep(POLL_S)
        return wire.UnloadAdapterResponse(residency=self._told(versions[0]))

    async def DrainServer(
        self, request: wire.DrainServerRequest, context: object
    ) -> wire.DrainServerResponse:
        """Take this server out of traffic."""
        current_call().principal.require(Role.OPERATE)
        num_inside = await self._traffic.drain(seconds_of("drain_timeout", request.drain_timeout))
        if request.exit:
            self._traffic.exit_asked.set()
        return wire.DrainServerResponse(num_inside=num_inside)

    async def UndrainServer(
        self, request: wire.UndrainServerRequest, context: object
    ) -> wire.UndrainServerResponse:
        """Take it back into traffic."""
        current_call().principal.require(Role.OPERATE)
        await self._traffic.undrain()
        return wire.UndrainServerResponse()

    async def OverrideAlias(
        self, request: wire.OverrideAliasRequest, context: object
    ) -> wire.OverrideAliasResponse:
        """Answer an alias with another resident version while the catalog is down."""
        key = names.alias_of(request.name, Role.OPERATE)  # as it takes to move a protected alias
        digest: str | None = None
        if request.WhichOneof("to") == "version_digest":
            digest = check_digest("version_digest", request.version_digest)
        elif not request.previous:
            raise InvalidArgument("to", "name a version's digest, or say previous = true")
        live = await self._inside.overrides.override(
            key, digest, request.reason, current_call().principal.subject
        )
        self._inside.pulse.nudge()
        told = convert.live_alias(key, live, self._inside.live)
        return wire.OverrideAliasResponse(live_alias=told)


def limits_of(config: Config, base: BaseInfo | None, max_blob_bytes: int) -> wire.ServerLimits:
    """Collect the numbers that requests are refused by."""
    return wire.ServerLimits(
        max_message_bytes=config.max_message_bytes,
        max_chunk_bytes=MAX_CHUNK_BYTES,
        max_blob_bytes=max_blob_bytes,
        context_length_tokens=0 if base is None else base.context_length,
        max_running_rows=0 if base is None else config.max_running_rows,
    )
