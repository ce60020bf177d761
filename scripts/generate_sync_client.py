"""Write the synchronous client, `_sync`, from the asynchronous one, `_async`.

    python scripts/generate_sync_client.py

The two differ by a handful of words and nothing else, so one is written by hand. A test fails when
the generated one is stale.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

CLIENT = Path(__file__).parent.parent / "clients" / "loradock" / "client"

# Applied in this order to every line of every module.
WORDS = (
    (r"^import (asyncio|grpc\.aio)\n", ""),
    (r"        except asyncio\.CancelledError:\n(            .*\n)+", ""),
    (r"_async\b", "_sync"),
    (r"\bgrpc\.aio\.", "grpc."),
    (r"\basync (def|with|for) ", r"\1 "),
    (r"\bawait ", ""),
    (r"\b__a(enter|exit|iter|next)__\b", r"__\1__"),
    (r"\bStopAsyncIteration\b", "StopIteration"),
    (r"\bAsync(?=[A-Z])", ""),
    (r"\bin_thread\b", "in_place"),
    (r"(?<!def )\bpause\b(?=[(,])", "pause_in_place"),
    (r"\bside_by_side\b", "in_threads"),
    (r", for one event loop\. Three channels", ". Safe to share between threads: three channels"),
    (
        r"The asynchronous client\. The synchronous one is generated from it\.",
        "The synchronous client.",
    ),
)
HEADER = "# Generated from _async/{name} by scripts/generate_sync_client.py. Do not edit.\n"


def synchronous(source: str, name: str) -> str:
    """Give the synchronous twin of a module."""
    for pattern, replacement in WORDS:
        source = re.sub(pattern, replacement, source, flags=re.MULTILINE)
    return _formatted(HEADER.format(name=name) + source, CLIENT / "_sync" / name)


def _formatted(source: str, path: Path) -> str:
    for verb in (("check", "--select", "I", "--fix-only"), ("format",)):
        command = [sys.executable, "-m", "ruff", *verb, "-q", "--stdin-filename", path, "-"]
        source = subprocess.run(
            command, input=source, capture_output=True, text=True, check=True
        ).stdout
    return source


def generate(out: Path) -> None:
    """Write every module's twin into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted((CLIENT / "_async").glob("*.py")):
        (out / path.name).write_text(synchronous(path.read_text(), path.name))


if __name__ == "__main__":
    generate(CLIENT / "_sync")
