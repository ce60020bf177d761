"""Looking after what is stored, and what was done."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from loradock.client._async.calls import AsyncCalls
from loradock.client._blocking import in_thread
from loradock.client._names import project_name
from loradock.client._policy import deadline_s
from loradock.client._transfer import OnProgress, WholeFile, bundle_messages
from loradock.client._values.admin import (
    AuditEvent,
    AuditHead,
    AuditReport,
    Diagnosis,
    Garbage,
    Imported,
    Verification,
)
from loradock.client._wire.admin import (
    audit_event_of,
    audit_head_message,
    audit_report_of,
    diagnosis_of,
    garbage_of,
    imported_of,
    retention_message,
    verification_of,
)
from loradock.client._wire.built import built
from loradock.client._wire.scalars import duration
from loradock.v1 import admin_service_pb2 as wire
from loradock.v1.admin_service_pb2_grpc import AdminServiceStub


class AsyncAdmin:
    """Garbage collection, verification and the audit log. Needs the role that operates servers."""

    def __init__(self, calls: AsyncCalls, steering: AsyncCalls) -> None:
        self._calls, self._steering = calls, steering
        self._stub = AdminServiceStub(calls.channel)
        self._looking = AdminServiceStub(steering.channel)

    async def collect_garbage(
        self,
        *,
        grace_s: float | None = None,
        keep_last: int | None = None,
        keep_younger_s: float | None = None,
        dry_run: bool = False,
    ) -> AsyncIterator[Garbage]:
        """Take away what has been garbage for longer than `grace_s` (a day), and give it.

        With `keep_last` or `keep_younger_s`, also delete the project's versions, ready or yanked,
        that nothing refers to and that neither keeps; their bytes go with a later run. With
        `dry_run` nothing is taken. What is not read to its end is not collected to its end.
        """
        request = built(
            wire.CollectGarbageRequest,
            parent=project_name(self._calls.project),
            grace=None if grace_s is None else duration(grace_s),
            validate_only=dry_run,
            retention=retention_message(keep_last, keep_younger_s),
        )
        answers = self._calls.download(
            self._stub.CollectGarbage, request, timeout_s=deadline_s("CollectGarbage")
        )
        async for answer in answers:
            for garbage in answer.garbage:
                yield garbage_of(garbage)

    async def verify(self) -> AsyncIterator[Verification]:
        """Read every stored byte again; tell again and again how far it is, and what it found."""
        request = built(wire.VerifyBlobsRequest, parent=project_name(self._calls.project))
        answers = self._calls.download(
            self._stub.VerifyBlobs, request, timeout_s=deadline_s("VerifyBlobs")
        )
        async for answer in answers:
            yield verification_of(answer)

    async def diagnose(self) -> Diagnosis:
        """Let the server look at its catalog, store, disks, clock, base, cache and audit log.

        One that is drained, or not ready yet, does so, too.
        """
        request = built(wire.DiagnoseRequest, parent=project_name(self._calls.project))
        return diagnosis_of(await self._steering.unary(self._looking.Diagnose, request))

    async def export_bundle(
        self,
        file: str | os.PathLike[str],
        references: Sequence[str] = (),
        *,
        adapters: Sequence[str] = (),
        with_aliases: bool = False,
        progress: OnProgress | None = None,
    ) -> int:
        """Write versions, and all that they need, into one file; give its size.

        `adapters` are exported with all their versions. The file appears when it is whole.
        """
        request = built(
            wire.ExportBundleRequest,
            parent=project_name(self._calls.project),
            references=references,
            adapters=adapters,
            with_aliases=with_aliases,
        )
        timeout_s = deadline_s("ExportBundle")
        with WholeFile(Path(file), progress) as whole:
            async for answer in self._calls.download(
                self._stub.ExportBundle, request, timeout_s=timeout_s
            ):
                whole.write(answer.chunk)
            return await in_thread(whole.accept)

    async def import_bundle(
        self,
        file: str | os.PathLike[str],
        *,
        with_aliases: bool = False,
        dry_run: bool = False,
        progress: OnProgress | None = None,
    ) -> Imported:
        """Publish what an exported file holds. The same again changes nothing."""
        header = built(
            wire.ImportBundleHeader,
            parent=project_name(self._calls.project),
            with_aliases=with_aliases,
            validate_only=dry_run,
        )
        answer = await self._calls.upload(
            self._stub.ImportBundle,
            bundle_messages(header, Path(file), progress),
            name="ImportBundle",
            timeout_s=deadline_s("ImportBundle"),
        )
        return imported_of(answer)

    def audit_events(self, *, page_size: int = 0) -> AsyncIterator[AuditEvent]:
        """List what was done in the project, the newest first. Needs no more than to view."""
        request = built(
            wire.ListAuditEventsRequest,
            parent=project_name(self._calls.project),
            page_size=page_size,
        )
        return self._calls.pages(
            self._stub.ListAuditEvents, request, lambda page: page.events, audit_event_of
        )

    async def verify_audit(self, known: AuditHead | None = None) -> AuditReport:
        """Follow the log's chain; `known` is a head that an earlier report gave."""
        request = built(
            wire.VerifyAuditRequest,
            parent=project_name(self._calls.project),
            known=audit_head_message(known),
        )
        return audit_report_of(await self._calls.unary(self._stub.VerifyAudit, request))
