"""AdminService: what is stored, whether it is well, bundles, audit. What is long is streamed."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Generator, Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import Generic, TypeVar

from loradock.registry.catalog.retention import Retention
from loradock.registry.garbage import DEFAULT_GRACE_S
from loradock.registry.registry import Registry
from loradock.server.doctor import Doctor
from loradock.server.services import convert_admin as convert
from loradock.server.services import names
from loradock.server.services.bundles import BundleTransfers
from loradock.server.services.call import current_call
from loradock.server.services.fields import page_size, seconds_of
from loradock.server.services.principal import Role
from loradock.server.threads import Threads
from loradock.v1 import admin_service_pb2 as wire
from loradock.v1 import admin_service_pb2_grpc as grpc_wire

T = TypeVar("T")
_BATCH = 50


class AdminService(grpc_wire.AdminServiceServicer):
    """Looks after what is stored."""

    def __init__(self, registry: Registry, threads: Threads, doctor: Doctor) -> None:
        self._registry = registry
        self._threads = threads
        self._doctor = doctor
        self._bundles = BundleTransfers(registry, threads)

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
            retention=_retention(request),
            dry_run=request.validate_only,
            by=current_call().principal.subject,
        )
        batches = _Batches(found)
        try:
            while batch := await self._threads.run(batches.next):
                yield wire.CollectGarbageResponse(garbage=[convert.garbage(one) for one in batch])
        finally:
            await self._threads.run(batches.close)  # so that what was taken is audited at once

    async def VerifyBlobs(
        self, request: wire.VerifyBlobsRequest, context: object
    ) -> AsyncIterator[wire.VerifyBlobsResponse]:
        """Read every stored byte again."""
        names.project_of(request.parent, Role.OPERATE)
        pages = await self._threads.run(self._registry.integrity.verify)
        while found := await self._threads.run(_next, pages, 1):
            yield convert.verified(found[0])

    async def Diagnose(
        self, request: wire.DiagnoseRequest, context: object
    ) -> wire.DiagnoseResponse:
        """Look at what this server stands on."""
        names.project_of(request.parent, Role.OPERATE)
        findings = await self._threads.run(self._doctor.findings)
        return convert.diagnosis(findings, datetime.now(UTC))

    async def ExportBundle(
        self, request: wire.ExportBundleRequest, context: object
    ) -> AsyncIterator[wire.ExportBundleResponse]:
        """Stream versions with all that they need."""
        async for piece in self._bundles.give(request):
            yield piece

    async def ImportBundle(
        self, request_iterator: AsyncIterator[wire.ImportBundleRequest], context: object
    ) -> wire.ImportBundleResponse:
        """Take in what another registry exported."""
        return await self._bundles.take(request_iterator)

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


class _Batches(Generic[T]):
    """What a generator gives, some at a time, on any thread.

    A call that was cancelled may still be reading when it closes.
    """

    def __init__(self, items: Generator[T, None, None]) -> None:
        self._items = items
        self._turn = threading.Lock()

    def next(self) -> list[T]:
        with self._turn:
            return _next(self._items, _BATCH)

    def close(self) -> None:
        with self._turn:
            self._items.close()


def _retention(request: wire.CollectGarbageRequest) -> Retention | None:
    if not request.HasField("retention"):
        return None
    told = request.retention
    younger = told.keep_younger if told.HasField("keep_younger") else None
    return Retention(
        keep_last=told.keep_last if told.HasField("keep_last") else None,
        keep_younger_s=None if younger is None else seconds_of("keep_younger", younger),
    )


def _next(iterator: Iterator[T], most: int) -> list[T]:
    return list(islice(iterator, most))
