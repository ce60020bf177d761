"""The local audit file of overrides: append-only lines, on disk before anything takes effect."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import asdict, dataclass
from pathlib import Path


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
            text = self._path.read_text()
        return [json.loads(line) for line in text.splitlines() if line.endswith("}")]

    def _write(self, line: dict[str, object]) -> None:
        with self._lock, self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
