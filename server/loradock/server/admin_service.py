"""AdminService: garbage collection and verification, streamed while they go on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from itertools import islice
from typing import TypeVar

from loradock.registry.garbage import DEFAULT_GRACE_S
from loradock.registry.registry import Registry
from loradock.server import convert_admin as convert
from loradock.server import names
from loradock.server.call import current_call
from loradock.server.fields import seconds_of
from loradock.server.principal import Role
from loradock.server.threads import Threads
from loradock.v1 import admin_service_pb2 as wire
from loradock.v1 import admin_service_pb2_grpc as grpc_wire

T = TypeVar("T")
_BATCH = 50


class AdminService(grpc_wire.AdminServiceServicer):
    """Looks after what is stored."""

    def __init__(self, registry: Registry, threads: Threads) -> None:
        self._registry = registry
        self._threads = threads

    async def CollectGarbage(
        self, request: wire.CollectGarbageRequest, context: object
    ) -> AsyncIterator[wire.CollectGarbageResponse]:
        """Take away what nothing refers to."""
        project = names.project_of(request.parent, Role.OPERATE)
        has_grace = request.HasField("grace")
        found = await self._threads.run(
            self._registry.garbage.collect,
            project,
            grace_s=seconds_of("grace", request.grace) if has_grace else DEFAULT_GRACE_S,
            dry_run=request.validate_only,
            by=current_call().principal.subject,
        )
        try:
            while batch := await self._threads.run(_next, found, _BATCH):
                yield wire.CollectGarbageResponse(garbage=[convert.garbage(one) for one in batch])
        finally:
            await self._threads.run(found.close)  # so that what was taken is audited at once

    async def VerifyBlobs(
        self, request: wire.VerifyBlobsRequest, context: object
    ) -> AsyncIterator[wire.VerifyBlobsResponse]:
        """Read every stored byte again."""
        names.project_of(request.parent, Role.OPERATE)
        pages = await self._threads.run(self._registry.integrity.verify)
        while found := await self._threads.run(_next, pages, 1):
            yield convert.verified(found[0])


def _next(iterator: Iterator[T], most: int) -> list[T]:
    return list(islice(iterator, most))
