"""A project's bytes: what is missing, in and out. Nothing is kept that isn't what its name says."""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from loradock.registry.catalog.database import Database
from loradock.registry.catalog.possessions import (
    hold,
    hold_possessed,
    is_damaged,
    mark_damaged,
    mark_whole,
    possessed,
    record_possession,
)
from loradock.registry.errors import (
    DigestMismatch,
    DiskFull,
    InvalidArgument,
    NotFound,
    StoreUnavailable,
    UploadTooLarge,
)
from loradock.registry.limits import Limits
from loradock.registry.names import check_digest, check_name
from loradock.registry.resources import BlobRef
from loradock.registry.steps import reached
from loradock.registry.stores import CHUNK_BYTES, BlobStore, Capabilities
from loradock.registry.stores.disk import full_disk_told, sync_folder
from loradock.registry.stores.spool import SpoolFile

_MAX_ASKED = 10_000


class Blobs:
    """Bytes by digest, as a project may see them."""

    def __init__(self, database: Database, store: BlobStore, limits: Limits) -> None:
        self._database = database
        self._store = store
        self._limits = limits

    def find_missing(self, project: str, refs: Sequence[BlobRef]) -> list[BlobRef]:
        """Find which bytes this project still has to send, whatever others have sent.

        What it has is held for a while, so that a publish can follow.
        """
        check_name("project", project)
        if len(refs) > _MAX_ASKED:
            raise InvalidArgument("blobs", f"more than {_MAX_ASKED}")
        for ref in refs:
            self._check(ref)
        digests = {ref.digest for ref in refs}
        known = self._database.write(lambda c: hold_possessed(c, project, digests), nudge=False)
        return [ref for ref in dict.fromkeys(refs) if known.get(ref.digest) != ref.size_bytes]

    def committed(self, project: str, refs: Sequence[BlobRef]) -> dict[str, int]:
        """Tell how much of missing blobs broken uploads brought, by digest: where to go on."""
        return self._store.spool.committed(project, refs)

    def temporary(self, name: str) -> SpoolFile:
        """Make a file for what is on its way, beside the uploads; the caller drops it."""
        return self._store.spool.temporary(name)

    def writer(self, project: str, ref: BlobRef, offset: int = 0) -> BlobWriter:
        """Begin an upload, or go on with a broken one at its committed offset (UploadOffset)."""
        check_name("project", project)
        self._check(ref)
        if not 0 <= offset <= ref.size_bytes:
            raise InvalidArgument("offset_bytes", f"{offset} is not in 0..{ref.size_bytes}")
        return BlobWriter(self._database, self._store, project, ref, offset)

    def is_damaged(self, digest: str) -> bool:
        """Tell whether a blob was found damaged, and not sent again since."""
        with self._database.read() as c:
            return is_damaged(c, digest)

    def read(
        self, project: str, digest: str, *, offset: int = 0, chunk_bytes: int = CHUNK_BYTES
    ) -> Iterator[bytes]:
        """Stream bytes that the project has."""
        self.ref(project, digest)
        if offset < 0 or chunk_bytes < 1:
            raise InvalidArgument("offset", "is negative, or chunks are empty")
        return self._store.read(digest, offset=offset, chunk_bytes=chunk_bytes)

    def checked(self, digest: str) -> Iterator[bytes]:
        """Stream bytes that are going to be relied on: at their end DigestMismatch if they differ.

        That is noted, so that who pushes them again is asked to send them.
        """
        sha256 = hashlib.sha256()
        try:
            for chunk in self._store.read(digest):
                sha256.update(chunk)
                yield chunk
            _check_digest(digest, sha256.hexdigest())
        except (NotFound, DigestMismatch):
            self._database.write(lambda c: mark_damaged(c, digest), nudge=False)
            raise

    def ref(self, project: str, digest: str) -> BlobRef:
        """Give a blob's reference if the project has it, else NotFound."""
        check_name("project", project)
        check_digest("digest", digest)
        with self._database.read() as c:
            size = possessed(c, project, [digest]).get(digest)
        if size is None:
            raise NotFound("blob", digest)
        return BlobRef(digest, size)

    def fetch(self, digest: str, destination: Path) -> None:
        """Bring a blob to a file: verified, synced, and there at once or not at all.

        Raises OSError where the file can't be there, which says nothing of the store.
        """
        check_digest("digest", digest)
        with full_disk_told("what is fetched"), _temporary_beside(destination) as (path, file):
            sha256 = hashlib.sha256()
            for chunk in self._store.read(digest):
                sha256.update(chunk)
                file.write(chunk)
            _check_digest(digest, sha256.hexdigest())
            file.flush()
            os.fsync(file.fileno())
            os.replace(path, destination)
            sync_folder(destination.parent)

    def reach(self) -> None:
        """Raise `StoreUnavailable` unless the store answers."""
        self._store.size("sha256:" + "0" * 64)

    def probe(self) -> Capabilities:
        """Find out what the store can do."""
        return self._store.probe()

    def _check(self, ref: BlobRef) -> None:
        check_digest("digest", ref.digest)
        if ref.size_bytes < 0:
            raise InvalidArgument("size_bytes", f"{ref.size_bytes} is negative")
        if ref.size_bytes > self._limits.max_blob_bytes:
            raise UploadTooLarge("blob", ref.size_bytes, self._limits.max_blob_bytes)


class BlobWriter:
    """One upload. Bytes wait in the spool until they are verified; one thread at a time.

    Left before its commit, it leaves what came for the next writer to go on with.
    """

    def __init__(
        self, database: Database, store: BlobStore, project: str, ref: BlobRef, offset: int
    ) -> None:
        self._database = database
        self._store = store
        self._project = project
        self._ref = ref
        self._offset = offset
        self._sha256 = hashlib.sha256()
        self._num_bytes = 0
        self._file: SpoolFile | None = None
        self._lock = threading.Lock()  # a call that was cancelled may still be writing

    def __enter__(self) -> Self:
        with self._lock:
            self._file = self._store.spool.open(self._project, self._ref, self._offset)
            for chunk in self._file.read():
                self._count(chunk)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._lock:
            if self._file is not None:
                self._file.leave()
                self._file = None

    def write(self, chunk: bytes) -> None:
        """Take the next bytes; DigestMismatch as soon as there are too many."""
        with self._lock, self._dropped_if_useless():
            self._count(chunk)
            if self._num_bytes > self._ref.size_bytes:
                raise self._mismatch(f"more than {self._ref.size_bytes} bytes")
            self._open.write(chunk)

    def commit(self) -> None:
        """Verify and keep the bytes, or raise DigestMismatch and keep nothing."""
        found = "sha256:" + self._sha256.hexdigest()
        with self._lock, self._dropped_if_useless():
            if self._num_bytes != self._ref.size_bytes or found != self._ref.digest:
                raise self._mismatch(f"{found} of {self._num_bytes} bytes")
            reached("upload.verified")
            self._keep(self._open.path)
            self._open.drop()

    def _keep(self, path: Path) -> None:
        project, digest = self._project, self._ref.digest
        born = put_held(self._database, self._store, self._ref, path)
        recorded = self._database.write(
            lambda c: record_possession(c, project, digest, born), nudge=False
        )
        if not recorded:
            raise StoreUnavailable(f"{digest}: was collected as garbage meanwhile; send it again")
        reached("upload.recorded")

    def _count(self, chunk: bytes) -> None:
        self._sha256.update(chunk)
        self._num_bytes += len(chunk)

    @contextmanager
    def _dropped_if_useless(self) -> Iterator[None]:
        """Keep nothing of what is wrong, and nothing where there is no room."""
        try:
            yield
        except (DigestMismatch, DiskFull):
            if self._file is not None:
                self._file.drop()
            raise

    @property
    def _open(self) -> SpoolFile:
        if self._file is None:
            raise InvalidArgument("writer", "is not open")
        return self._file

    def _mismatch(self, found: str) -> DigestMismatch:
        return DigestMismatch(f"{self._ref.digest} of {self._ref.size_bytes} bytes", found)


def put_held(database: Database, store: BlobStore, ref: BlobRef, file: Path) -> datetime:
    """Put a file whose content was checked; what this gives proves that it was held all along.

    What `verify` found damaged is replaced.
    """
    held = database.write(lambda c: hold(c, ref), nudge=False)
    reached("blob.held")
    store.put(ref.digest, file, replace=held.is_damaged)
    reached("blob.put")
    if held.is_damaged:
        database.write(lambda c: mark_whole(c, ref.digest), nudge=False)
    return held.born


def _check_digest(promised: str, hex_digits: str) -> None:
    if promised != f"sha256:{hex_digits}":
        raise DigestMismatch(promised, f"sha256:{hex_digits}")


@contextmanager
def _temporary_beside(destination: Path) -> Iterator[tuple[Path, BinaryIO]]:
    destination.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=destination.parent, prefix=f".{destination.name}-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield Path(name), file
    finally:
        Path(name).unlink(missing_ok=True)
