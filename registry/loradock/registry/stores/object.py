"""What lies in a store: a blob is known by its digest alone, which is also its place."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from loradock.registry.names import is_digest


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


def blob_key(digest: str) -> str:
    """`blobs/sha256/ab/<hex>`."""
    hex_digits = digest.removeprefix("sha256:")
    return f"blobs/sha256/{hex_digits[:2]}/{hex_digits}"
