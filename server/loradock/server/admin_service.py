"""AdminService: garbage collection, verification and the audit log. What is long is streamed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from itertools import islice
from typing import TypeVar

from loradock.registry.garbage import DEFAULT_GRACE_S
from loradock.registry.registry import Registry
from loradock.server import convert_admin as convert
from loradock.server import names
from loradock.server.call import current_call
from loradock.server.fields import page_size, seconds_of
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

    async def ListAuditEvents(
        self, request: wire.ListAuditEventsRequest, context: object
    ) -> wire.ListAuditEventsResponse:
        """List a project's events, newest first."""
        project = names.project_of(request.parent, Role.VIEW)
        page = await self._threads.run(
            self._registry.audit.list,
            project,
            page_size=page_size(request.page_size),
            page_token=request.page_token,
        )
        return wire.ListAuditEventsResponse(
            events=[convert.audit_event(event) for event in page.items],
            next_page_token=page.next_page_token,
        )

    async def VerifyAudit(
        self, request: wire.VerifyAuditRequest, context: object
    ) -> wire.VerifyAuditResponse:
        """Follow the chain of all projects' events."""
        names.project_of(request.parent, Role.OPERATE)
        known = (request.known.sequence, request.known.hash)
        report = await self._threads.run(
            self._registry.audit.verify, known if request.HasField("known") else None
        )
        return convert.audit_report(report)


def _next(iterator: Iterator[T], most: int) -> list[T]:
    return list(islice(iterator, most))
