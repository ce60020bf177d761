"""A server of the role registry as a process of its own, which a test may kill and restart."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from real_server import LORADOCK


def free_port() -> int:
    """Find a port that nobody listens on."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


@dataclass
class RegistryProcess:
    """Starts when entered, and again at the same place; what it keeps is in `folder`."""

    folder: Path
    options: tuple[str, ...] = ()
    port: int = field(default_factory=free_port)
    _process: subprocess.Popen[str] | None = None

    @property
    def address(self) -> str:
        """Where it listens, before and after a restart."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        place = ("--port", str(self.port), "--data-dir", str(self.folder), *self.options)
        command: list[str | os.PathLike[str]] = [LORADOCK, "serve", "--roles", "registry", *place]
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert re.match("loradock is serving", line), f"it did not start: {line}"

    def kill(self) -> None:
        """End it as a power cut would."""
        self._end(by_kill=True)

    def __enter__(self) -> RegistryProcess:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end(by_kill=False)

    def _end(self, *, by_kill: bool) -> None:
        if self._process is not None:
            self._process.kill() if by_kill else self._process.terminate()
            self._process.wait(30)
            assert self._process.stdout
            self._process.stdout.close()
            self._process = None
