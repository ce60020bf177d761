"""A backup's folder: blobs by their digests, and beside them its catalog as of each backup."""

from __future__ import annotations

import hashlib
from datetime import datetime
from pathlib import Path

from loradock.registry.errors import AlreadyExists, DigestMismatch
from loradock.registry.resources import BlobRef
from loradock.registry.stores import BlobStore
from loradock.registry.stores.disk import disk_errors

OWNER = "catalog-id"  # the file that says whose backups these are


def dump_name(at: datetime) -> str:
    """Name the catalog of a moment; later ones sort behind."""
    return f"catalog-{at:%Y%m%dT%H%M%S%f}Z.jsonl"


def catalogs_of(folder: Path) -> list[Path]:
    """List a folder's catalogs, the oldest first."""
    return sorted(folder.glob("catalog-*.jsonl"))


def claim(folder: Path, catalog_id: str) -> None:
    """Let a folder belong to a catalog from its first backup on; AlreadyExists if to another one.

    Among another's backups a catalog's would be the latest, which is what a restore brings back. A
    catalog in which nothing was done yet has no id, and claims nothing.
    """
    owner = folder / OWNER
    with disk_errors(f"the backup in {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        known = owner.read_text() if owner.exists() else ""
        if catalog_id and not known:
            owner.write_text(catalog_id)
            known = owner.read_text()
    if known != catalog_id:
        what = f"{folder} has the backups of another catalog: give each catalog a folder of its own"
        raise AlreadyExists("backup", str(folder), what)


def copy_blob(
    source: BlobStore, target: BlobStore, ref: BlobRef, *, hashes_target: bool = False
) -> bool:
    """Copy a blob, hashed on its way (DigestMismatch); tell whether it was not there whole.

    What is there already is taken at its size, or else hashed, and replaced if it is damaged.
    """
    is_there = target.size(ref.digest) == ref.size_bytes
    if is_there and not (hashes_target and _is_damaged(target, ref.digest)):
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
        target.put(ref.digest, file.path, replace=is_there)
    finally:
        file.drop()
    return True


def _is_damaged(store: BlobStore, digest: str) -> bool:
    sha256 = hashlib.sha256()
    for chunk in store.read(digest):
        sha256.update(chunk)
    return digest != f"sha256:{sha256.hexdigest()}"
