"""Bundles out and in over the wire: chunked, never wholly in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

from loradock.registry.bundle.importing import Imported
from loradock.registry.errors import InvalidArgument
from loradock.registry.registry import Registry
from loradock.registry.stores.spool import SpoolFile
from loradock.server.blobs import MAX_CHUNK_BYTES
from loradock.server.errors import ChunkTooLarge
from loradock.server.services import convert_admin as convert
from loradock.server.services import names
from loradock.server.services.call import current_call
from loradock.server.services.principal import Role
from loradock.server.threads import Threads
from loradock.v1 import admin_service_pb2 as wire


class BundleTransfers:
    """Exports and imports, each call on threads of the pool."""

    def __init__(self, registry: Registry, threads: Threads) -> None:
        self._registry = registry
        self._threads = threads

    async def give(
        self, request: wire.ExportBundleRequest
    ) -> AsyncIterator[wire.ExportBundleResponse]:
        """Give a bundle's bytes; what can't be exported is told before the first."""
        project = names.project_of(request.parent, Role.OPERATE)
        pieces = await self._threads.run(
            self._registry.exporter.bundle,
            project,
            tuple(request.references),
            tuple(request.adapters),
            with_aliases=request.with_aliases,
        )
        while (piece := await self._threads.run(_next, pieces)) is not None:
            for start in range(0, len(piece), MAX_CHUNK_BYTES):
                yield wire.ExportBundleResponse(chunk=piece[start : start + MAX_CHUNK_BYTES])

    async def take(
        self, requests: AsyncIterator[wire.ImportBundleRequest]
    ) -> wire.ImportBundleResponse:
        """Take a bundle to disk, and then in."""
        header = await _header(requests)
        project = names.project_of(header.parent, Role.OPERATE)
        if header.with_aliases:
            names.project_of(header.parent, Role.PROMOTE)  # as whoever moves aliases himself
        run = self._threads.run
        file = await run(self._registry.blobs.temporary, "bundle")
        try:
            async for request in requests:
                await run(file.write, _chunk(request))
            by = current_call().principal.subject
            imported = await run(self._import, project, file, header, by)
        finally:
            await run(file.drop)
        return convert.imported(imported)

    def _import(
        self, project: str, file: SpoolFile, header: wire.ImportBundleHeader, by: str
    ) -> Imported:
        with file.path.open("rb") as bundle:
            return self._registry.importer.take(
                project,
                bundle,
                with_aliases=header.with_aliases,
                may_move_protected=True,  # it takes the role that sets policies to come here
                validate_only=header.validate_only,
                by=by,
            )


def _next(pieces: Iterator[bytes]) -> bytes | None:
    return next(pieces, None)


async def _header(
    requests: AsyncIterator[wire.ImportBundleRequest],
) -> wire.ImportBundleHeader:
    async for request in requests:
        if request.WhichOneof("part") == "header":
            return request.header
        break
    raise InvalidArgument("header", "comes first")


def _chunk(request: wire.ImportBundleRequest) -> bytes:
    if request.WhichOneof("part") != "chunk":
        raise InvalidArgument("chunk", "only chunks follow the header")
    if len(request.chunk) > MAX_CHUNK_BYTES:
        raise ChunkTooLarge(len(request.chunk), MAX_CHUNK_BYTES)
    return request.chunk
