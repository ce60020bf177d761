"""What the local disk does: synced writes, and its refusals as the registry's own errors."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loradock.registry.errors import DiskFull, StoreUnavailable

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """Tell a full disk as DiskFull, and what else it refuses as StoreUnavailable."""
    try:
        with full_disk_told(what):
            yield
    except OSError as error:
        raise StoreUnavailable(f"{what}: {error.strerror or error}") from error


@contextmanager
def full_disk_told(what: str) -> Iterator[None]:
    """Tell a full disk as DiskFull, and leave what else it refuses as it is."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFull(what, error.strerror or str(error)) from error
        raise


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
