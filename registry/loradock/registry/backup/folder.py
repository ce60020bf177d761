"""A backup's folder: blobs by their digests, and beside them one catalog for each backup."""

from __future__ import annotations

import hashlib
from datetime import datetime
from pathlib import Path

from loradock.registry.errors import DigestMismatch
from loradock.registry.resources import BlobRef
from loradock.registry.stores import BlobStore


def dump_name(at: datetime) -> str:
    """Name the catalog of a moment; later ones sort behind."""
    return f"catalog-{at:%Y%m%dT%H%M%S%f}Z.jsonl"


def catalogs_of(folder: Path) -> list[Path]:
    """List a folder's catalogs, the oldest first."""
    return sorted(folder.glob("catalog-*.jsonl"))


def copy_blob(source: BlobStore, target: BlobStore, ref: BlobRef) -> bool:
    """Copy a blob, hashed on its way (DigestMismatch); tell whether it was lacking."""
    if target.size(ref.digest) == ref.size_bytes:
        return False
    sha256 = hashlib.sha256()
    file = target.spool.temporary("copy")
    try:
        for chunk in source.read(ref.digest):
            sha256.update(chunk)
            file.write(chunk)
        found = f"sha256:{sha256.hexdigest()}"
        if found != ref.digest:
            raise DigestMismatch(ref.digest, found)
        target.put(ref.digest, file.path)
    finally:
        file.drop()
    return True
