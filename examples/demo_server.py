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
from typing import Any

from rich.console import Console
from rich.text import Text

BASE = "smollm2-135m-instruct"
START_TIMEOUT_S = 120.0
ROOT = Path(__file__).parent.parent
LORADOCK = Path(sys.executable).parent / "loradock"


@dataclass(frozen=True, slots=True)
class Server:
    """A running server, and where the commands given to it are shown."""

    address: str
    console: Console

    def cli(self, *arguments: str | Path) -> str:
        """Show one CLI command, run it as a person would, and give what it said."""
        words = [str(argument) for argument in arguments]
        show_command(self.console, *words)
        return self._run(*words)

    def cli_json(self, *arguments: str | Path) -> Any:  # noqa: ANN401
        """Show one CLI command, run it with `--json`, and give the document."""
        words = [str(argument) for argument in arguments]
        show_command(self.console, *words)
        return json.loads(self._run(*words, "--json"))

    def say(self, text: str) -> None:
        """Print what is not to be wrapped or read as markup."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _run(self, *words: str) -> str:
        command = [str(LORADOCK), "--address", self.address, *words]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


@contextmanager
def server(
    base: Path, folder: Path, console: Console | None = None, *, dtype: str = "float32"
) -> Iterator[Server]:
    """Start a server over `folder`, wait until it serves, and stop it by SIGTERM afterwards."""
    console = console or Console(quiet=True)
    ready, log = folder / "ready.json", folder / "serve.log"
    words = ["serve", "--model", str(base), "--model-name", BASE, "--dtype", dtype]
    show_command(console, *words)
    place = ["--port", "0", "--data-dir", str(folder / "data"), "--ready-file", str(ready)]
    with log.open("wb") as output:
        process = subprocess.Popen([LORADOCK, *words, *place], stdout=output, stderr=output)
    try:
        yield Server(_wait_until_ready(process, ready, log), console)
    finally:
        process.terminate()
        process.wait(timeout=30)


def show_command(console: Console, *words: str) -> None:
    """Print a command as one would type it."""
    typed = (word.removeprefix(f"{ROOT}/").replace(str(Path.home()), "~") for word in words)
    quoted = (f"'{word}'" if " " in word else word for word in typed)
    line = Text("$ ", style="dim").append(" ".join([".venv/bin/loradock", *quoted]), style="bold")
    console.print(line, soft_wrap=True)


def _wait_until_ready(process: subprocess.Popen[bytes], ready: Path, log: Path) -> str:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if ready.exists():
            return str(json.loads(ready.read_text())["address"])
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise SystemExit(f"the server did not start:\n{log.read_text()[-4000:]}")
