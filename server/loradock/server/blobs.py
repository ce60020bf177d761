"""Bytes in and out of the registry: chunked, verified, never wholly in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

from loradock.registry.errors import InvalidArgument
from loradock.registry.registry import Registry
from loradock.server.errors import ChunkTooLarge
from loradock.server.services import convert_registry as convert
from loradock.server.services import names
from loradock.server.services.principal import Role
from loradock.server.threads import Threads
from loradock.v1 import registry_service_pb2 as wire

MAX_CHUNK_BYTES = 1 << 20


class BlobTransfers:
    """Uploads and downloads, each call on threads of the pool."""

    def __init__(self, registry: Registry, threads: Threads) -> None:
        self._registry = registry
        self._threads = threads

    async def upload(
        self, requests: AsyncIterator[wire.UploadBlobRequest]
    ) -> wire.UploadBlobResponse:
        """Store the chunks if they hash to the digest of the header.

        What a broken upload brought is kept for the next one to go on with.
        """
        header = await _header(requests)
        project = names.project_of(header.parent, Role.PUBLISH)
        ref = convert.read_blob(header.blob)
        run = self._threads.run
        writer = await run(self._registry.blobs.writer, project, ref, header.offset_bytes)
        await run(writer.__enter__)
        try:
            async for chunk in _chunks(requests):
                await run(writer.write, chunk)
            await run(writer.commit)
        finally:
            await run(writer.__exit__, None, None, None)
        return wire.UploadBlobResponse(blob=convert.blob(ref))

    async def download(
        self, request: wire.DownloadBlobRequest
    ) -> AsyncIterator[wire.DownloadBlobResponse]:
        """Give the bytes from the offset on."""
        project = names.project_of(request.parent, Role.VIEW)
        if request.offset_bytes < 0:
            raise InvalidArgument("offset_bytes", "is negative")
        chunks = await self._threads.run(
            self._registry.blobs.read,
            project,
            request.digest,
            offset=request.offset_bytes,
            chunk_bytes=MAX_CHUNK_BYTES,
        )
        while (chunk := await self._threads.run(_next, chunks)) is not None:
            yield wire.DownloadBlobResponse(chunk=chunk)


def _next(chunks: Iterator[bytes]) -> bytes | None:
    return next(chunks, None)


async def _header(requests: AsyncIterator[wire.UploadBlobRequest]) -> wire.UploadBlobHeader:
    async for request in requests:
        if request.WhichOneof("part") == "header":
            return request.header
        break
    raise InvalidArgument("header", "comes first")


async def _chunks(requests: AsyncIterator[wire.UploadBlobRequest]) -> AsyncIterator[bytes]:
    async for request in requests:
        if request.WhichOneof("part") != "chunk":
            raise InvalidArgument("chunk", "only chunks follow the header")
        if len(request.chunk) > MAX_CHUNK_BYTES:
            raise ChunkTooLarge(len(request.chunk), MAX_CHUNK_BYTES)
        yield request.chunk
