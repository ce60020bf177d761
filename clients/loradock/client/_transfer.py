"""Bytes on their way: the messages of an upload, and a file that is there once it is proven."""

from __future__ import annotations

import hashlib
import os
import random
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

from loradock.client._errors import (
    Aborted,
    DataLoss,
    DeadlineExceeded,
    LoradockError,
    Unavailable,
)
from loradock.client._folder import LocalFile, chunks_of
from loradock.client._values.registry import Blob, TransferProgress
from loradock.client._wire.registry import blob_message
from loradock.v1 import admin_service_pb2 as admin
from loradock.v1 import registry_service_pb2 as wire

OnProgress = Callable[[TransferProgress], None]

NUM_AT_ONCE = 4  # files of one push
MAX_FAILURES = 10  # in a row; with the pauses between them, a server has half a minute to restart
MAX_PAUSE_S = 5.0


class Upload:
    """One file on its way up, however often it breaks off. Bounded: see `after`."""

    def __init__(
        self,
        parent: str,
        file: LocalFile,
        committed_bytes: int,
        progress: OnProgress | None,
        *,
        within_limit: bool = False,
    ) -> None:
        """`within_limit`: the caller gave each call its time, so that more than it is too much."""
        # A server bounds each call: a file that takes longer goes up in several.
        self._may_go_on = (Unavailable,) if within_limit else (Unavailable, DeadlineExceeded)
        self.parent, self.file, self._progress = parent, file, progress
        self._offset = committed_bytes
        self.num_failures = 0  # in a row, without a byte gained
        self._is_suspect = False  # what the server had from earlier is not what it should be
        self.sent_bytes = 0

    def messages(self) -> Iterator[wire.UploadBlobRequest]:
        """Give the header and then the chunks from the offset on, telling progress."""
        blob, done_bytes = self.file.blob, self._offset
        header = wire.UploadBlobHeader(
            parent=self.parent, blob=blob_message(blob), offset_bytes=done_bytes
        )
        yield wire.UploadBlobRequest(header=header)
        for chunk in chunks_of(self.file.path, done_bytes):
            yield wire.UploadBlobRequest(chunk=chunk)
            done_bytes += len(chunk)
            self.sent_bytes += len(chunk)
            tell(self._progress, self.file.path.name, done_bytes, blob.size_bytes)

    def after(self, error: LoradockError) -> float:
        """Give how long to wait before going on; raise the error if that is no use."""
        self.num_failures += 1
        began_anew = not self._offset
        is_wrong_part = isinstance(error, DataLoss | Aborted) and not began_anew
        if is_wrong_part and not self._is_suspect:
            self._is_suspect = True
        elif not isinstance(error, self._may_go_on) or self.num_failures >= MAX_FAILURES:
            raise error
        return random.uniform(0.5, 1.0) * min(0.2 * 2.0**self.num_failures, MAX_PAUSE_S)

    def go_on_at(self, committed_bytes: int) -> None:
        """Note what the server has now."""
        if self._is_suspect:  # it begins anew each time, so what came this time is no gain
            self._offset = 0
            return
        if committed_bytes > self._offset:
            self.num_failures = 0
        self._offset = committed_bytes


def tell(progress: OnProgress | None, file: str, done_bytes: int, total_bytes: int) -> None:
    """Tell progress to whom it may concern."""
    if progress is not None:
        progress(TransferProgress(file, done_bytes, total_bytes))


def bundle_messages(
    header: admin.ImportBundleHeader, file: Path, progress: OnProgress | None
) -> Iterator[admin.ImportBundleRequest]:
    """Give an import's header and then its chunks, telling progress on the way."""
    yield admin.ImportBundleRequest(header=header)
    total_bytes, done_bytes = file.stat().st_size, 0
    for chunk in chunks_of(file):
        yield admin.ImportBundleRequest(chunk=chunk)
        done_bytes += len(chunk)
        tell(progress, file.name, done_bytes, total_bytes)


class WholeFile:
    """A file that appears under its name only when it is whole.

    A context manager: what was not accepted when it is left, is removed.
    """

    def __init__(self, path: Path, progress: OnProgress | None) -> None:
        self._path, self._progress = path, progress
        self._part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.incomplete")
        self.num_bytes = 0

    def __enter__(self) -> Self:
        self._file = self._part.open("xb")
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._file.close()
        self._part.unlink(missing_ok=True)

    def write(self, chunk: bytes) -> None:
        """Take the next bytes."""
        self.num_bytes += len(chunk)
        self._file.write(chunk)
        tell(self._progress, self._path.name, self.num_bytes, self.num_bytes)

    def accept(self) -> int:
        """Give the bytes their name; tell how many there are."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._part.replace(self._path)
        return self.num_bytes


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
