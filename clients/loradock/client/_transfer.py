"""Bytes on their way: the messages of an upload, and a file that is there once it is proven."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

from loradock.client._errors import DataLoss
from loradock.client._folder import LocalFile, chunks_of
from loradock.client._values.registry import Blob, TransferProgress
from loradock.client._wire.registry import blob_message
from loradock.v1 import registry_service_pb2 as wire

OnProgress = Callable[[TransferProgress], None]


def upload_messages(
    parent: str, file: LocalFile, progress: OnProgress | None
) -> Iterator[wire.UploadBlobRequest]:
    """Give an upload's header and then its chunks, telling progress on the way."""
    header = wire.UploadBlobHeader(parent=parent, blob=blob_message(file.blob))
    yield wire.UploadBlobRequest(header=header)
    done_bytes = 0
    for chunk in chunks_of(file.path):
        yield wire.UploadBlobRequest(chunk=chunk)
        done_bytes += len(chunk)
        tell(progress, file.path.name, done_bytes, file.blob.size_bytes)


def tell(progress: OnProgress | None, file: str, done_bytes: int, total_bytes: int) -> None:
    """Tell progress to whom it may concern."""
    if progress is not None:
        progress(TransferProgress(file, done_bytes, total_bytes))


class IncomingFile:
    """A download that appears under its name only when its bytes hash to the digest.

    A context manager: what was not accepted when it is left, is removed.
    """

    def __init__(self, path: Path, blob: Blob, progress: OnProgress | None) -> None:
        self._path, self._blob, self._progress = path, blob, progress
        self._part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.incomplete")
        self._hash = hashlib.sha256()
        self._num_bytes = 0

    def __enter__(self) -> Self:
        self._file = self._part.open("xb")
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._file.close()
        self._part.unlink(missing_ok=True)

    def write(self, chunk: bytes) -> None:
        """Take the next bytes; more than were promised are refused at once."""
        self._num_bytes += len(chunk)
        if self._num_bytes > self._blob.size_bytes:
            raise self._mismatch(f"more than {self._blob.size_bytes} bytes")
        self._hash.update(chunk)
        self._file.write(chunk)
        tell(self._progress, self._path.name, self._num_bytes, self._blob.size_bytes)

    def accept(self) -> None:
        """Verify the bytes and give them their name."""
        actual = f"sha256:{self._hash.hexdigest()}"
        if actual != self._blob.digest:
            raise self._mismatch(actual)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._part.replace(self._path)

    def _mismatch(self, actual: str) -> DataLoss:
        return DataLoss(
            f"{self._path.name} is {actual}, not {self._blob.digest} as promised",
            reason="DIGEST_MISMATCH",
            metadata={"expected": self._blob.digest, "actual": actual},
        )
