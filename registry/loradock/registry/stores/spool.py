"""Where bytes wait until they are whole and proven: files that outlive a broken upload.

Whoever writes a file holds its lock, which ends with the process: so what is unlocked was left by
somebody, and may be gone on with, or be taken away. The spool is this host's: an upload that goes
on at another host begins anew there.
"""

from __future__ import annotations

import fcntl
import os
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from loradock.registry.errors import UploadOffset
from loradock.registry.resources import BlobRef
from loradock.registry.stores.disk import disk_errors
from loradock.registry.stores.object import StoredObject

_WHAT = "the uploads' folder"
_PATIENCE_S = 1.0  # for a writer whose connection has just broken


class Spool:
    """A folder of unfinished files. Several threads and processes may share it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with disk_errors(_WHAT):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def committed(self, project: str, refs: Iterable[BlobRef]) -> dict[str, int]:
        """Tell by digest how much broken uploads brought; nothing of what somebody is writing."""
        give_up_at = time.monotonic() + _PATIENCE_S  # for all of them together
        sizes = {ref.digest: self._committed(project, ref, give_up_at) for ref in refs}
        return {digest: size for digest, size in sizes.items() if size}

    def _committed(self, project: str, ref: BlobRef, give_up_at: float) -> int:
        path = self._path(project, ref)
        with disk_errors(_WHAT):
            if not path.exists() or (file := _patiently_locked(path, give_up_at)) is None:
                return 0
            with file:
                size = os.fstat(file.fileno()).st_size
                return size if size <= ref.size_bytes else 0

    def open(self, project: str, ref: BlobRef, offset: int) -> SpoolFile:
        """Begin an upload, or go on at an offset; UploadOffset if it can't go on from there.

        Beside another upload of the same bytes, one from the beginning gets a file of its own.
        """
        path = self._path(project, ref)
        with disk_errors(_WHAT):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = _locked(path, create=offset == 0)
            if file is None and offset == 0:
                return self.temporary(path.name)
            size = 0 if file is None else os.fstat(file.fileno()).st_size
            if file is None or size < offset:
                _close(file)
                raise UploadOffset(offset, size)
            file.truncate(offset)
            return SpoolFile(path, file)

    def temporary(self, name: str) -> SpoolFile:
        """Make a file that nobody goes on with."""
        path = self.folder / f"{name}.{uuid.uuid4().hex}"
        with disk_errors(_WHAT):
            file = _locked(path, create=True)
        assert file is not None, "nobody else knows its name"
        return SpoolFile(path, file)

    def leftovers(self, before: datetime) -> Iterator[StoredObject]:
        """List files that nobody writes and that were not touched since, by key."""
        with disk_errors(_WHAT):
            paths = sorted(path for path in self.folder.rglob("*") if _is_file(path))
        for path in paths:
            with suppress(FileNotFoundError):
                about = path.stat()
                at = datetime.fromtimestamp(about.st_mtime, UTC)
                if at < before and not _is_locked(path):
                    key = f"staging/{path.relative_to(self.folder).as_posix()}"
                    yield StoredObject(key, about.st_size, at)

    def discard(self, leftover: StoredObject) -> bool:
        """Take a leftover away, unless somebody writes it by now."""
        path = self.folder / leftover.key.removeprefix("staging/")
        with disk_errors(_WHAT):
            file = _locked(path, create=False)
            if file is None:
                return False
            with file:
                path.unlink(missing_ok=True)
        return True

    def _path(self, project: str, ref: BlobRef) -> Path:
        return self.folder / "uploads" / project / ref.digest.removeprefix("sha256:")


class SpoolFile:
    """A file that its holder alone writes. Left, it stays for who goes on; dropped, it is gone."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self._file = file

    def read(self) -> Iterator[bytes]:
        """Give what is there already; the next write goes behind it."""
        with disk_errors(_WHAT):
            self._file.seek(0)
            while chunk := self._file.read(1 << 20):
                yield chunk

    def write(self, content: bytes) -> None:
        """Append; what is written survives the end of the process."""
        view = memoryview(content)
        with disk_errors(_WHAT):
            while view:
                view = view[self._file.write(view) :]

    def leave(self) -> None:
        """Let go of it; an empty one is not kept."""
        if not self._file.closed and os.fstat(self._file.fileno()).st_size == 0:
            self.drop()
        self._file.close()

    def drop(self) -> None:
        """Take it away; nothing if it was moved to where it belongs."""
        if not self._file.closed:
            if _is_at(self._file, self.path):
                self.path.unlink(missing_ok=True)
            self._file.close()


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _patiently_locked(path: Path, give_up_at: float) -> BinaryIO | None:
    while (file := _locked(path, create=False)) is None and path.exists():
        if time.monotonic() >= give_up_at:
            return None
        time.sleep(0.02)
    return file


def _locked(path: Path, *, create: bool) -> BinaryIO | None:
    """Open a file to write alone; None if somebody else does so, or if it isn't there."""
    flags = os.O_RDWR | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
    while True:
        try:
            file = os.fdopen(os.open(path, flags, 0o600), "r+b", buffering=0)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        if _is_at(file, path):
            return file  # unbuffered: what is written outlives this process
        file.close()  # it went, or was moved, between opening and locking


def _is_at(file: BinaryIO, path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False


def _is_locked(path: Path) -> bool:
    file = _locked(path, create=False)
    _close(file)
    return file is None


def _close(file: BinaryIO | None) -> None:
    if file is not None:
        file.close()
