"""The demo's server: `loradock serve` as a process of its own, and the CLI pointed at it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

BASE = "smollm2-135m-instruct"
START_TIMEOUT_S = 120.0
LORADOCK = Path(sys.executable).parent / "loradock"


@dataclass(frozen=True, slots=True)
class Server:
    """A running server."""

    address: str

    def cli(self, *arguments: str | Path) -> None:
        """Run one CLI command as a person would, and show it."""
        words = [str(argument) for argument in arguments]
        print("$ loradock", *(_short(word) for word in words), flush=True)
        subprocess.run([LORADOCK, "--address", self.address, *words], check=True)


@contextmanager
def server(base: Path, folder: Path) -> Iterator[Server]:
    """Start a server over `folder`, wait until it serves, and stop it by SIGTERM afterwards."""
    ready, log = folder / "ready.json", folder / "serve.log"
    command = [
        *(LORADOCK, "serve", "--model", base, "--model-name", BASE, "--dtype", "float32"),
        *("--port", "0", "--data-dir", folder / "data", "--ready-file", ready),
    ]
    with log.open("wb") as output, subprocess.Popen(command, stderr=output) as process:
        try:
            yield Server(_wait_until_ready(process, ready, log))
        finally:
            process.terminate()
            process.wait(timeout=30)


def _wait_until_ready(process: subprocess.Popen[bytes], ready: Path, log: Path) -> str:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if ready.exists():
            return str(json.loads(ready.read_text())["address"])
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise SystemExit(f"the server did not start:\n{log.read_text()[-4000:]}")


def _short(word: str) -> str:
    here = str(Path(__file__).parent.parent) + "/"
    return word.removeprefix(here)
