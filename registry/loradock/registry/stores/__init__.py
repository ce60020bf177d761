"""Where blobs lie: one protocol, a folder and S3 behind it. A blob is known by its digest alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from loradock.registry.errors import InvalidArgument
from loradock.registry.stores.object import StoredObject, blob_key
from loradock.registry.stores.spool import Spool

__all__ = ["CHUNK_BYTES", "BlobStore", "Capabilities", "StoredObject", "blob_key", "open_store"]
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a store was seen to do. What it can't do is kept safe by content addressing alone."""

    conditional_put: bool  # a second write of a key is refused, not silently done
    conditional_multipart: bool
    verifies_checksums: bool  # a write with a wrong sha256 is refused
    multipart: bool = True  # large blobs can go up in parts


class BlobStore(Protocol):
    """Bytes by digest. A blob is there whole or not at all, and never changes."""

    @property
    def spool(self) -> Spool:
        """Where files are written that are about to be put."""

    def size(self, digest: str) -> int | None:
        """Bytes of a blob, None if it isn't there."""

    def put(self, digest: str, file: Path, *, replace: bool = False) -> bool:
        """Take a file whose content has this digest (the caller checked); it may be moved away.

        False if the blob was there already. A blob of another size under this digest is damage,
        and is replaced; so is any, at once or not at all, if `replace` says that it is damaged.
        """

    def read(
        self, digest: str, *, offset: int = 0, chunk_bytes: int = CHUNK_BYTES
    ) -> Iterator[bytes]:
        """Stream a blob; NotFound or StoreUnavailable before the first chunk if it can't be."""

    def delete(self, digest: str) -> None:
        """Take a blob away; nothing if it isn't there. The caller knows that nobody needs it."""

    def list(self) -> Iterator[StoredObject]:
        """List what lies where blobs lie, by key; also what is no blob."""

    def leftovers(self, before: datetime) -> Iterator[StoredObject]:
        """List writes that were begun, not touched since, and never ended."""

    def discard(self, leftover: StoredObject) -> bool:
        """Take a leftover away; False if somebody writes it by now."""

    @property
    def where(self) -> str:
        """What people call the place: no secret is in it."""

    @property
    def disk(self) -> Path | None:
        """The folder on this host; None if the bytes are elsewhere."""

    def probe(self, *, again: bool = False) -> Capabilities:
        """Find out what the store can do; the answer is kept until it is asked for again."""

    def close(self) -> None:
        """Give connections back."""


def open_store(url: str, spool: Path | None = None) -> BlobStore:
    """`file:///folder` or `s3://bucket/prefix?endpoint_url=…&region=…`.

    `spool` is where uploads to S3 wait on this host; a folder has them beside its blobs.
    """
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path:
        from loradock.registry.stores.folder import FolderBlobStore

        return FolderBlobStore(Path(unquote(parts.path)))
    if parts.scheme == "s3" and parts.netloc:
        from loradock.registry.stores.s3 import S3BlobStore, read_url

        return S3BlobStore(read_url(url), spool)
    raise InvalidArgument("blob_url", "is neither file:///folder nor s3://bucket/prefix")
