"""Where blobs lie: one protocol, a folder and S3 behind it. A blob is known by its digest alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from loradock.registry.errors import InvalidArgument
from loradock.registry.names import is_digest

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a store was seen to do. What it can't do is kept safe by content addressing alone."""

    conditional_put: bool  # a second write of a key is refused, not silently done
    conditional_multipart: bool
    verifies_checksums: bool  # a write with a wrong sha256 is refused


@dataclass(frozen=True, slots=True)
class StoredObject:
    """Something that lies in a store."""

    key: str  # "blobs/sha256/ab/…", "staging/upload-…"
    size_bytes: int
    modified_at: datetime
    upload_id: str = ""  # of a multipart upload

    @property
    def digest(self) -> str | None:
        """The digest that the key stands for; None if no blob would lie here."""
        digest = "sha256:" + self.key.rpartition("/")[2]
        return digest if is_digest(digest) and blob_key(digest) == self.key else None


class BlobStore(Protocol):
    """Bytes by digest. A blob is there whole or not at all, and never changes."""

    @property
    def staging(self) -> Path:
        """A folder for files that are about to be put."""

    def size(self, digest: str) -> int | None:
        """Bytes of a blob, None if it isn't there."""

    def put(self, digest: str, file: Path) -> bool:
        """Take a file whose content has this digest (the caller checked); it may be moved away.

        False if the blob was there already. A blob of another size under this digest is damage,
        and is replaced.
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

    def discard(self, leftover: StoredObject) -> None:
        """Take a leftover away; nothing if it isn't there."""

    def probe(self) -> Capabilities:
        """Find out what the store can do; the first answer is kept."""

    def close(self) -> None:
        """Give connections back."""


def blob_key(digest: str) -> str:
    """`blobs/sha256/ab/<hex>`."""
    hex_digits = digest.removeprefix("sha256:")
    return f"blobs/sha256/{hex_digits[:2]}/{hex_digits}"


def open_store(url: str) -> BlobStore:
    """`file:///folder` or `s3://bucket/prefix?endpoint_url=…&region=…`."""
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path:
        from loradock.registry.stores.folder import FolderBlobStore

        return FolderBlobStore(Path(unquote(parts.path)))
    if parts.scheme == "s3" and parts.netloc:
        from loradock.registry.stores.s3 import S3BlobStore, read_url

        return S3BlobStore(read_url(url))
    raise InvalidArgument("blob_url", "is neither file:///folder nor s3://bucket/prefix")
