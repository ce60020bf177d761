"""Blobs in a folder: written beside, synced, renamed. A crash leaves a whole blob or none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from loradock.registry.errors import NotFound
from loradock.registry.stores import CHUNK_BYTES, Capabilities, StoredObject, blob_key
from loradock.registry.stores.disk import disk_errors, sync_file, sync_folder
from loradock.registry.stores.spool import Spool


class FolderBlobStore:
    """A BlobStore in a folder. Several processes may share it."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._spool = Spool(root / "staging")  # on the same disk, so that a rename is enough

    @property
    def spool(self) -> Spool:
        return self._spool

    def size(self, digest: str) -> int | None:
        with disk_errors(digest):
            try:
                return self._path(digest).stat().st_size
            except FileNotFoundError:
                return None

    def put(self, digest: str, file: Path, *, replace: bool = False) -> bool:
        with disk_errors(digest):
            if not replace and self.size(digest) == file.stat().st_size:
                return False
            path = self._path(digest)
            if not path.parent.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                for folder in (path.parent, *list(path.parent.parents)[:3]):
                    sync_folder(folder)
            sync_file(file)
            os.replace(file, path)
            sync_folder(path.parent)
        return True

    def read(
        self, digest: str, *, offset: int = 0, chunk_bytes: int = CHUNK_BYTES
    ) -> Iterator[bytes]:
        with disk_errors(digest):
            try:
                file = self._path(digest).open("rb")
            except FileNotFoundError:
                raise NotFound("blob", digest) from None
        return _chunks(file, digest, offset, chunk_bytes)

    def delete(self, digest: str) -> None:
        path = self._path(digest)
        with disk_errors(digest):
            path.unlink(missing_ok=True)
            if path.parent.exists():
                sync_folder(path.parent)

    def list(self) -> Iterator[StoredObject]:
        yield from self._files(self._root / "blobs")

    def leftovers(self, before: datetime) -> Iterator[StoredObject]:
        return self._spool.leftovers(before)

    def discard(self, leftover: StoredObject) -> bool:
        return self._spool.discard(leftover)

    @property
    def where(self) -> str:
        return f"folder {self._root}"

    @property
    def disk(self) -> Path | None:
        return self._root

    def probe(self, *, again: bool = False) -> Capabilities:
        return Capabilities(
            conditional_put=True, conditional_multipart=True, verifies_checksums=False
        )

    def close(self) -> None:
        """Nothing is held."""

    def _files(self, folder: Path) -> Iterator[StoredObject]:
        """Walk a folder, one subfolder at a time; links are told, and not followed."""
        with disk_errors(folder.name):
            try:
                entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            except FileNotFoundError:
                return
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from self._files(Path(entry.path))
                continue
            if (found := self._object(entry)) is not None:
                yield found

    def _object(self, entry: os.DirEntry[str]) -> StoredObject | None:
        with disk_errors(entry.name):
            try:
                about = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                return None  # it went between the listing and the look
        key = Path(entry.path).relative_to(self._root).as_posix()
        return StoredObject(key, about.st_size, datetime.fromtimestamp(about.st_mtime, UTC))

    def _path(self, digest: str) -> Path:
        return self._root / blob_key(digest)


def _chunks(file: BinaryIO, digest: str, offset: int, chunk_bytes: int) -> Iterator[bytes]:
    with file, disk_errors(digest):
        file.seek(offset)
        while chunk := file.read(chunk_bytes):
            yield chunk
