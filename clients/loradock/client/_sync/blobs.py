# Generated from _async/blobs.py by scripts/generate_sync_client.py. Do not edit.
"""Bytes to and from the registry; what it has already isn't sent again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from loradock.client._blocking import in_place, in_threads, pause_in_place
from loradock.client._errors import LoradockError
from loradock.client._folder import LocalFile
from loradock.client._names import project_name
from loradock.client._policy import transfer_deadline_s
from loradock.client._sync.calls import Calls
from loradock.client._transfer import NUM_AT_ONCE, IncomingFile, OnProgress, Upload, tell
from loradock.client._values.registry import Blob
from loradock.client._wire.built import built
from loradock.client._wire.registry import blob_message
from loradock.v1 import registry_service_pb2 as wire
from loradock.v1.registry_service_pb2_grpc import RegistryServiceStub


class Blobs:
    """Uploads and downloads of one client."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._stub = RegistryServiceStub(calls.channel)

    def send(self, project: str, files: Sequence[LocalFile], progress: OnProgress | None) -> int:
        """Send what the registry lacks of `files`, some at once; give the number of bytes sent.

        What breaks off goes on where the server has it, by itself, for a while.
        """
        parent = project_name(project)
        response = self._ask(parent, files)
        missing = {blob.digest for blob in response.missing}
        lacking = [file for file in files if file.blob.digest in missing]
        uploads = [
            Upload(
                parent,
                file,
                response.committed_bytes.get(file.blob.digest, 0),
                progress,
                within_limit=self._calls.has_limit,
            )
            for file in {file.blob.digest: file for file in lacking}.values()
        ]
        sent = in_threads(self._send, uploads, NUM_AT_ONCE)
        for file in files:
            tell(progress, file.path.name, file.blob.size_bytes, file.blob.size_bytes)
        return sum(sent)

    def _send(self, upload: Upload) -> int:
        while not self._is_sent(upload):
            pass
        return upload.sent_bytes

    def _is_sent(self, upload: Upload) -> bool:
        """Try once; what failed along the way may have been all of it."""
        timeout_s = transfer_deadline_s(upload.file.blob.size_bytes)
        try:
            if upload.num_failures:
                response = self._ask(upload.parent, [upload.file])
                if not response.missing:
                    return True
                upload.go_on_at(response.committed_bytes.get(upload.file.blob.digest, 0))
            self._calls.upload(
                self._stub.UploadBlob, upload.messages(), name="UploadBlob", timeout_s=timeout_s
            )
        except LoradockError as error:
            pause_in_place(upload.after(error))
            return False
        return True

    def _ask(self, parent: str, files: Sequence[LocalFile]) -> wire.FindMissingBlobsResponse:
        request = built(
            wire.FindMissingBlobsRequest,
            parent=parent,
            blobs=[blob_message(file.blob) for file in files],
        )
        return self._calls.unary(self._stub.FindMissingBlobs, request)

    def fetch(self, project: str, blob: Blob, path: Path, progress: OnProgress | None) -> None:
        """Download to `path`, which appears only when its bytes are proven."""
        request = built(wire.DownloadBlobRequest, parent=project_name(project), digest=blob.digest)
        with IncomingFile(path, blob, progress) as incoming:
            for response in self._calls.download(
                self._stub.DownloadBlob, request, timeout_s=transfer_deadline_s(blob.size_bytes)
            ):
                incoming.write(response.chunk)
            in_place(incoming.accept)
