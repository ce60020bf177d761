"""A project's bytes: what is missing, in and out. Nothing is kept that isn't what its name says."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from loradock.registry.catalog.database import Database
from loradock.registry.catalog.possessions import (
    hold,
    hold_possessed,
    possessed,
    record_possession,
)
from loradock.registry.errors import (
    DigestMismatch,
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
from loradock.registry.stores.folder import sync_folder

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

    def writer(self, project: str, ref: BlobRef) -> BlobWriter:
        """Begin an upload; leaving the writer without a commit leaves nothing behind."""
        check_name("project", project)
        self._check(ref)
        return BlobWriter(self._database, self._store, project, ref)

    def read(
        self, project: str, digest: str, *, offset: int = 0, chunk_bytes: int = CHUNK_BYTES
    ) -> Iterator[bytes]:
        """Stream bytes that the project has."""
        self.ref(project, digest)
        if offset < 0 or chunk_bytes < 1:
            raise InvalidArgument("offset", "is negative, or chunks are empty")
        return self._store.read(digest, offset=offset, chunk_bytes=chunk_bytes)

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
        """Bring a blob to a file: verified, synced, and there at once or not at all."""
        check_digest("digest", digest)
        with local_errors(), _temporary_beside(destination) as (path, file):
            sha256 = hashlib.sha256()
            for chunk in self._store.read(digest):
                sha256.update(chunk)
                file.write(chunk)
            _check_digest(digest, sha256.hexdigest())
            file.flush()
            os.fsync(file.fileno())
            os.replace(path, destination)
            sync_folder(destination.parent)

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
    """One upload. Bytes lie in the store's staging folder until they are verified."""

    def __init__(self, database: Database, store: BlobStore, project: str, ref: BlobRef) -> None:
        self._database = database
        self._store = store
        self._project = project
        self._ref = ref
        self._sha256 = hashlib.sha256()
        self._num_bytes = 0
        self._file: BinaryIO | None = None
        self._path = Path()

    def __enter__(self) -> Self:
        with local_errors():
            descriptor, name = tempfile.mkstemp(dir=self._store.staging, prefix="upload-")
            self._path, self._file = Path(name), os.fdopen(descriptor, "wb")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.discard()

    def write(self, chunk: bytes) -> None:
        """Take the next bytes; DigestMismatch as soon as there are too many."""
        self._num_bytes += len(chunk)
        if self._num_bytes > self._ref.size_bytes:
            raise self._mismatch(f"more than {self._ref.size_bytes} bytes")
        self._sha256.update(chunk)
        with local_errors():
            self._open.write(chunk)

    def commit(self) -> None:
        """Verify and keep the bytes, or raise DigestMismatch and keep nothing."""
        found = "sha256:" + self._sha256.hexdigest()
        if self._num_bytes != self._ref.size_bytes or found != self._ref.digest:
            raise self._mismatch(f"{found} of {self._num_bytes} bytes")
        with local_errors():
            self._open.close()
        reached("upload.verified")
        self._keep()
        self.discard()

    def _keep(self) -> None:
        project, digest = self._project, self._ref.digest
        born = put_held(self._database, self._store, self._ref, self._path)
        recorded = self._database.write(
            lambda c: record_possession(c, project, digest, born), nudge=False
        )
        if not recorded:
            raise StoreUnavailable(f"{digest}: was collected as garbage meanwhile; send it again")
        reached("upload.recorded")

    def discard(self) -> None:
        """Drop what was written; nothing if it was committed."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            self._file = None
            self._path.unlink(missing_ok=True)

    @property
    def _open(self) -> BinaryIO:
        if self._file is None:
            raise InvalidArgument("writer", "is not open")
        return self._file

    def _mismatch(self, found: str) -> DigestMismatch:
        return DigestMismatch(f"{self._ref.digest} of {self._ref.size_bytes} bytes", found)


def put_held(database: Database, store: BlobStore, ref: BlobRef, file: Path) -> datetime:
    """Put a file whose content was checked; what this gives proves that it was held all along."""
    born = database.write(lambda c: hold(c, ref), nudge=False)
    reached("blob.held")
    store.put(ref.digest, file)
    reached("blob.put")
    return born


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


@contextmanager
def local_errors() -> Iterator[None]:
    """Tell what the local disk refuses as StoreUnavailable."""
    try:
        yield
    except OSError as error:
        raise StoreUnavailable(f"local disk: {error.strerror or error}") from error
