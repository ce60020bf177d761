"""The disk cache: a version's weights on this host, verified, within a budget of bytes."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from loradock.engine.protocol import AdapterSource, LoraModule
from loradock.registry.resources import Version

log = logging.getLogger(__name__)

Fetch = Callable[[str, Path], None]


@dataclass(slots=True)
class _Use:
    """Who needs a file; one at a time verifies or fetches it."""

    turn: threading.Lock = field(default_factory=threading.Lock)
    num_users: int = 0


class Fetcher:
    """Files named by their digest. May be used from any thread."""

    def __init__(self, fetch: Fetch, folder: Path, budget_bytes: int) -> None:
        self._fetch = fetch
        self._folder = folder
        self._budget_bytes = budget_bytes
        self._lock = threading.Lock()
        self._in_use: dict[Path, _Use] = {}
        folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def source(self, version: Version) -> Iterator[AdapterSource]:
        """Give a version's weights, fetched if they are not here; not removed meanwhile."""
        digest = version.delta.weights.digest
        path = self._folder / f"{digest.removeprefix('sha256:')}.safetensors"
        with self._using(path) as use:
            with use.turn:
                self._ensure(digest, path)
            self._trim()
            yield AdapterSource(digest=version.digest, weights=path, modules=_modules(version))

    def _ensure(self, digest: str, path: Path) -> None:
        if path.exists():
            if _sha256(path) == digest:
                os.utime(path)
                return
            log.warning(
                "cached file is corrupt: fetching it again", extra={"facts": {"path": path}}
            )
            path.unlink(missing_ok=True)
        started = time.monotonic()
        self._fetch(digest, path)
        facts = {"weights": digest, "seconds": round(time.monotonic() - started, 4)}
        log.info("weights fetched", extra={"facts": facts | {"size_bytes": path.stat().st_size}})

    @contextmanager
    def _using(self, path: Path) -> Iterator[_Use]:
        with self._lock:
            use = self._in_use.setdefault(path, _Use())
            use.num_users += 1
        try:
            yield use
        finally:
            with self._lock:
                use.num_users -= 1
                if not use.num_users:
                    del self._in_use[path]

    def _trim(self) -> None:
        """Remove the longest unused files over the budget."""
        with self._lock:
            files = sorted(
                ((s.st_mtime, s.st_size, path) for path, s in self._stats()), reverse=True
            )
            total = 0
            for _, size, path in files:
                total += size
                if total > self._budget_bytes and path not in self._in_use:
                    path.unlink(missing_ok=True)

    def _stats(self) -> Iterator[tuple[Path, os.stat_result]]:
        for path in self._folder.glob("*.safetensors"):
            try:
                yield path, path.stat()
            except FileNotFoundError:  # another process shares the folder
                continue


def _modules(version: Version) -> tuple[LoraModule, ...]:
    return tuple(LoraModule(m.module, m.rank, m.scaling, m.a_key, m.b_key) for m in version.modules)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
