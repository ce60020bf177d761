"""Bytes to and from the registry; what it has already isn't sent again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from loradock.client._async.calls import AsyncCalls
from loradock.client._blocking import in_thread
from loradock.client._folder import LocalFile
from loradock.client._names import project_name
from loradock.client._policy import transfer_deadline_s
from loradock.client._transfer import IncomingFile, OnProgress, tell, upload_messages
from loradock.client._values.registry import Blob
from loradock.client._wire.built import built
from loradock.client._wire.registry import blob_message
from loradock.v1 import registry_service_pb2 as wire
from loradock.v1.registry_service_pb2_grpc import RegistryServiceStub


class AsyncBlobs:
    """Uploads and downloads of one client."""

    def __init__(self, calls: AsyncCalls) -> None:
        self._calls = calls
        self._stub = RegistryServiceStub(calls.channel)

    async def send(
        self, project: str, files: Sequence[LocalFile], progress: OnProgress | None
    ) -> int:
        """Send what the registry lacks of `files`; give the number of bytes sent."""
        parent = project_name(project)
        request = built(
            wire.FindMissingBlobsRequest,
            parent=parent,
            blobs=[blob_message(file.blob) for file in files],
        )
        response = await self._calls.unary(self._stub.FindMissingBlobs, request)
        missing = {blob.digest for blob in response.missing}
        sent_bytes = 0
        for file in files:
            size_bytes = file.blob.size_bytes
            if file.blob.digest in missing:
                await self._calls.upload(
                    self._stub.UploadBlob,
                    upload_messages(parent, file, progress),
                    timeout_s=transfer_deadline_s(size_bytes),
                )
                sent_bytes += size_bytes
            tell(progress, file.path.name, size_bytes, size_bytes)
        return sent_bytes

    async def fetch(
        self, project: str, blob: Blob, path: Path, progress: OnProgress | None
    ) -> None:
        """Download to `path`, which appears only when its bytes are proven."""
        request = built(wire.DownloadBlobRequest, parent=project_name(project), digest=blob.digest)
        with IncomingFile(path, blob, progress) as incoming:
            async for response in self._calls.download(
                self._stub.DownloadBlob, request, timeout_s=transfer_deadline_s(blob.size_bytes)
            ):
                incoming.write(response.chunk)
            await in_thread(incoming.accept)
