"""The disk cache: weights on this host by their digest, within a budget of bytes.

A file is there whole or not at all and is never rewritten. It is hashed before each load, under a
shared lock: neither this process nor another one on the same folder removes it meanwhile. The
latest use is noted as the file's time, so that what is known of it outlives a restart.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import logging
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from io import BufferedReader
from pathlib import Path

from loradock.registry.resources import BlobRef
from loradock.server.threads import Threads

log = logging.getLogger(__name__)

Fetch = Callable[[str, Path], None]
SUFFIX = ".safetensors"
ABANDONED_S = 3600.0  # a download that a killed process left half-done


class NotCached(Exception):
    """The file is not here, or not what its name says; it has to be fetched (again)."""


class CacheUnusable(Exception):
    """The disk refuses what the cache needs."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"this server can't use its disk cache ({reason}): its operator has to mend the folder "
            "cache_dir, or name another"
        )


@contextmanager
def _usable() -> Iterator[None]:
    """Tell what the disk refuses as CacheUnusable."""
    try:
        yield
    except OSError as error:
        raise CacheUnusable(error.strerror or str(error)) from error


class DiskCache:
    """Files named by their digest. Belongs to the event loop's thread, but for `verified`."""

    def __init__(self, fetch: Fetch, folder: Path, budget_bytes: int, threads: Threads) -> None:
        """Download on `threads`, whose number bounds how many go on side by side."""
        self._fetch = fetch
        self._folder = folder
        self.budget_bytes = budget_bytes
        self._threads = threads
        self._downloads: dict[str, asyncio.Task[float]] = {}
        self._num_holders: Counter[str] = Counter()
        self.num_downloads = 0
        self.num_removals = 0
        folder.mkdir(parents=True, exist_ok=True)
        self._remove_abandoned()
        self._sizes = {_digest_of(path): size for path, size, _ in self._files()}

    @property
    def used_bytes(self) -> int:
        """Bytes of the files, as they were last looked at."""
        return sum(self._sizes.values())

    @property
    def num_files(self) -> int:
        """Files, as they were last looked at."""
        return len(self._sizes)

    def has(self, digest: str) -> bool:
        """Whether weights are here, as was last seen."""
        return digest in self._sizes

    @asynccontextmanager
    async def held(self, blob: BlobRef) -> AsyncIterator[float]:
        """Have weights here, and keep them here; give the seconds that their download took.

        However many ask, there is one download.
        """
        self._num_holders[blob.digest] += 1
        try:
            with _usable():
                is_here = self._path(blob.digest).exists()
            yield 0.0 if is_here else await self._downloaded(blob)
        finally:
            self._num_holders[blob.digest] -= 1
            if not self._num_holders[blob.digest]:
                del self._num_holders[blob.digest]

    @contextmanager
    def verified(self, digest: str) -> Iterator[Path]:
        """Give a file whose bytes are what its name says, on any thread.

        Raises `NotCached`, or `CacheUnusable`.
        """
        path = self._path(digest)
        with _usable():
            try:
                file = path.open("rb")
            except FileNotFoundError as error:
                raise NotCached(f"{path.name} is gone from the disk cache") from error
        with file:
            with _usable():
                fcntl.flock(file, fcntl.LOCK_SH)
                self._check(file, digest, path)
            yield path

    def _check(self, file: BufferedReader, digest: str, path: Path) -> None:
        if not os.fstat(file.fileno()).st_nlink:
            raise NotCached(f"{path.name} was just removed from the disk cache")
        if _sha256(file) != digest:
            log.warning(
                "cached file is corrupt: fetching it again", extra={"facts": {"path": path}}
            )
            path.unlink(missing_ok=True)
            self._sizes.pop(digest, None)
            raise NotCached(f"{path.name} in the disk cache does not stay what it was")
        with suppress(OSError):
            os.utime(path)

    async def _downloaded(self, blob: BlobRef) -> float:
        download = self._downloads.get(blob.digest)
        if download is None:
            download = asyncio.create_task(self._threads.run(self._download, blob))
            self._downloads[blob.digest] = download
            download.add_done_callback(lambda done: self._has_ended(blob.digest, done))
        return await asyncio.shield(download)

    def _has_ended(self, digest: str, download: asyncio.Task[float]) -> None:
        del self._downloads[digest]
        if not download.cancelled():
            download.exception()  # who waits for it has it

    @_usable()
    def _download(self, blob: BlobRef) -> float:
        started = time.monotonic()
        self._trim(blob.size_bytes)
        self._fetch(blob.digest, self._path(blob.digest))
        seconds = time.monotonic() - started
        self.num_downloads += 1
        facts = {
            "weights": blob.digest,
            "size_bytes": blob.size_bytes,
            "seconds": round(seconds, 4),
        }
        log.info("weights fetched", extra={"facts": facts})
        self._trim(0)
        return seconds

    def _trim(self, coming_bytes: int) -> None:
        """Remove the longest unused files, until what comes fits. What is in use stays."""
        files = sorted(self._files(), key=lambda file: file[2])
        sizes = {_digest_of(path): size for path, size, _ in files}
        for path, size, _ in files:
            if sum(sizes.values()) + coming_bytes <= self.budget_bytes:
                break
            digest = _digest_of(path)
            if digest not in self._num_holders and _remove_unless_read(path):
                del sizes[digest]
                self.num_removals += 1
                log.info("weights removed", extra={"facts": {"weights": digest, "bytes": size}})
        self._sizes = sizes

    def _files(self) -> Iterator[tuple[Path, int, float]]:
        for path in self._folder.glob(f"*{SUFFIX}"):
            with suppress(FileNotFoundError):  # another process shares the folder
                stat = path.stat()
                yield path, stat.st_size, stat.st_mtime

    def _remove_abandoned(self) -> None:
        for path in self._folder.glob(f".*{SUFFIX}-*"):
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < time.time() - ABANDONED_S:
                    path.unlink()

    def _path(self, digest: str) -> Path:
        return self._folder / f"{digest.removeprefix('sha256:')}{SUFFIX}"


def _digest_of(path: Path) -> str:
    return f"sha256:{path.name.removesuffix(SUFFIX)}"


def _remove_unless_read(path: Path) -> bool:
    """Remove a file; not if a process is loading it."""
    with suppress(FileNotFoundError), path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        path.unlink(missing_ok=True)
    return True


def _sha256(file: BufferedReader) -> str:
    return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
