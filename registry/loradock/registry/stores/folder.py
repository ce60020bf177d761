"""Blobs in a folder: written beside, synced, renamed. A crash leaves a whole blob or none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from loradock.registry.errors import NotFound, StoreUnavailable
from loradock.registry.stores import CHUNK_BYTES, Capabilities, StoredObject, blob_key


class FolderBlobStore:
    """A BlobStore in a folder. Several processes may share it."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._staging = root / "staging"
        with _store_errors(f"blob folder {root.name!r}"):
            self._staging.mkdir(parents=True, exist_ok=True)

    @property
    def staging(self) -> Path:
        return self._staging

    def size(self, digest: str) -> int | None:
        with _store_errors(digest):
            try:
                return self._path(digest).stat().st_size
            except FileNotFoundError:
                return None

    def put(self, digest: str, file: Path) -> bool:
        with _store_errors(digest):
            if self.size(digest) == file.stat().st_size:
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
        with _store_errors(digest):
            try:
                file = self._path(digest).open("rb")
            except FileNotFoundError:
                raise NotFound("blob", digest) from None
        return _chunks(file, digest, offset, chunk_bytes)

    def delete(self, digest: str) -> None:
        path = self._path(digest)
        with _store_errors(digest):
            path.unlink(missing_ok=True)
            if path.parent.exists():
                sync_folder(path.parent)

    def list(self) -> Iterator[StoredObject]:
        yield from self._files(self._root / "blobs")

    def leftovers(self, before: datetime) -> Iterator[StoredObject]:
        for found in self._files(self._staging):
            if found.modified_at < before:
                yield found

    def discard(self, leftover: StoredObject) -> None:
        with _store_errors(leftover.key):
            (self._root / leftover.key).unlink(missing_ok=True)

    def probe(self) -> Capabilities:
        return Capabilities(
            conditional_put=True, conditional_multipart=True, verifies_checksums=False
        )

    def close(self) -> None:
        """Nothing is held."""

    def _files(self, folder: Path) -> Iterator[StoredObject]:
        """Walk a folder, one subfolder at a time; links are told, and not followed."""
        with _store_errors(folder.name):
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
        with _store_errors(entry.name):
            try:
                about = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                return None  # it went between the listing and the look
        key = Path(entry.path).relative_to(self._root).as_posix()
        return StoredObject(key, about.st_size, datetime.fromtimestamp(about.st_mtime, UTC))

    def _path(self, digest: str) -> Path:
        return self._root / blob_key(digest)


def sync_file(path: Path) -> None:
    """Make a file's content survive a power cut."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Make a folder's entries survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _chunks(file: BinaryIO, digest: str, offset: int, chunk_bytes: int) -> Iterator[bytes]:
    with file, _store_errors(digest):
        file.seek(offset)
        while chunk := file.read(chunk_bytes):
            yield chunk


@contextmanager
def _store_errors(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreUnavailable(f"{what}: {error.strerror or error}") from error
