"""The local audit file of overrides: append-only lines, on disk before anything takes effect."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from loradock.registry.stores.disk import disk_errors


@dataclass(frozen=True, slots=True)
class Override:
    """One decision to answer an alias differently while the catalog was down."""

    id: str
    at: str  # ISO 8601, UTC
    subject: str
    project: str
    adapter: str
    alias: str
    from_digest: str
    to_digest: str
    to_number: int
    generation: int  # the one diverged from
    reason: str

    @property
    def key(self) -> tuple[str, str, str]:
        """The alias."""
        return self.project, self.adapter, self.alias


class OverrideLog:
    """One file of JSON lines. Thread-safe."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)

    def append(self, override: Override) -> None:
        """Write a decision down before it takes effect."""
        self._write({"event": "override", **asdict(override)})

    def close(self, override: Override, outcome: str) -> None:
        """Write down what became of a decision."""
        self._write({"event": "reconciled", "id": override.id, "outcome": outcome})

    def open_ones(self) -> list[Override]:
        """List the decisions that have not been reconciled, oldest first."""
        found: dict[str, Override] = {}
        for line in self._lines():
            event = line.pop("event")
            if event == "override":
                found[str(line["id"])] = Override(**line)  # type: ignore[arg-type]
            else:
                found.pop(str(line["id"]), None)
        return list(found.values())

    def _lines(self) -> list[dict[str, object]]:
        with self._lock:
            if not self._path.exists():
                return []
            content = self._path.read_bytes()
        return [json.loads(line) for line in content.splitlines() if _is_whole(line)]

    def _write(self, line: dict[str, object]) -> None:
        """Append a line whole or not at all: what is refused for want of room leaves nothing."""
        told = disk_errors("the log of overrides")
        with self._lock, told, self._path.open("ab+", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            try:
                _write_all(file, _separator(file, size) + json.dumps(line).encode() + b"\n")
                os.fsync(file.fileno())
            except OSError:
                file.truncate(size)
                raise


def _is_whole(line: bytes) -> bool:
    """Tell a line from what a killed process left of one: that never took effect."""
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _separator(file: BinaryIO, size: int) -> bytes:
    """Give what ends a line that was broken off."""
    if not size:
        return b""
    file.seek(size - 1)
    return b"" if file.read(1) == b"\n" else b"\n"


def _write_all(file: BinaryIO, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[file.write(view) :]
