"""Servers that tests start as processes of their own."""

from __future__ import annotations

import os
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 40.0


@contextmanager
def serving(
    *command: str | os.PathLike[str], says: str, said: list[str] | None = None
) -> Iterator[str]:
    """Run a server until it is left; give the first group of what it says when it is ready.

    All that it ever says is kept in `said`.
    """
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    said = [] if said is None else said
    found: list[str] = []
    ready = threading.Event()

    def listen() -> None:
        assert process.stdout
        for line in process.stdout:
            said.append(line)
            if not found and (match := re.search(says, line)):
                found.append(match[1])
                ready.set()
        ready.set()

    listener = threading.Thread(target=listen)
    listener.start()
    try:
        ready.wait(START_TIMEOUT_S)
        assert found, f"{command[0]} did not start:\n{''.join(said[-60:])}"
        yield found[0]
    finally:
        _stop(process)
        listener.join()
        assert process.stdout
        process.stdout.close()


def _stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
