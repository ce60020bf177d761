"""A server of Loradock's in a process of its own, and what benchmarks on it need beside."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from engine import demo_base
from workload import Workload, write_adapters

from loradock.client import Client

HERE = Path(__file__).parent
LORADOCK = Path(sys.executable).parent / "loradock"
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 45.0
BASE = "base"
ADAPTER = "triage"

sys.path.append(str(HERE.parent / "tests"))  # the tiny base and the oracles are theirs


@dataclass(frozen=True, slots=True)
class Running:
    """One running server."""

    address: str
    metrics_address: str
    pid: int
    log: Path

    def lines(self) -> Iterator[dict[str, object]]:
        """Give the lines of its log so far."""
        for line in self.log.read_text().splitlines():
            if line.startswith("{"):
                yield json.loads(line)


@contextmanager
def serve(base: Path, folder: Path, *options: str) -> Iterator[Running]:
    """Start a server that keeps its data in a folder; stop it by SIGTERM, and want exit code 0."""
    ready, log = folder / "ready.json", folder / "log.txt"
    command = [
        *(str(LORADOCK), "serve", "--model", str(base), "--model-name", BASE),
        *("--port", "0", "--data-dir", str(folder / "data"), "--ready-file", str(ready)),
        *("--metrics-address", "127.0.0.1:0"),
        *options,
    ]
    ready.unlink(missing_ok=True)  # an earlier server's, in the same folder
    with log.open("w") as out:
        environment = {**os.environ, "PYTHONFAULTHANDLER": "1"}
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment)
    try:
        give_up_at = time.monotonic() + START_TIMEOUT_S
        while not ready.exists():
            if process.poll() is not None or time.monotonic() > give_up_at:
                raise SystemExit(f"the server did not start:\n{log.read_text()[-3000:]}")
            time.sleep(0.05)
        told = json.loads(ready.read_text())
        yield Running(told["address"], told["metrics_address"], told["pid"], log)
        process.terminate()
        code = _end_of(process)
        if code:
            raise SystemExit(f"the server ended with {code}:\n{log.read_text()[-9000:]}")
    finally:
        process.kill()
        process.wait()


def _end_of(process: subprocess.Popen[bytes]) -> int:
    """Wait for a server's end; one that does not come is made to log where its threads are."""
    try:
        return process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)
        return process.wait()


def base_of(folder: Path, *, tiny: bool) -> Path:
    """Give the demo's base, or a tiny random one made in a folder."""
    if not tiny:
        return demo_base()
    from tiny_base import make_tiny_base

    _draw_no_bars_off_a_terminal()
    return make_tiny_base(folder / "tiny")


def _draw_no_bars_off_a_terminal() -> None:
    """Keep transformers from it, which draws unasked as it reads and writes."""
    if not sys.stderr.isatty():
        from transformers.utils import logging

        logging.disable_progress_bar()  # type: ignore[no-untyped-call]


class Judge:
    """Says whether an answer is what one version says by itself: greedy, by PEFT, in float32."""

    def __init__(self, base: Path, versions: Sequence[Path], *, max_tokens: int) -> None:
        import torch
        from oracle import Oracle

        _draw_no_bars_off_a_terminal()
        torch.set_num_threads(1)  # beside a busy server, threads would wait for each other
        self._oracles = {n: Oracle(base, folder) for n, folder in enumerate(versions, 1)}
        self._max_tokens = max_tokens
        self.expected: dict[tuple[str, int], tuple[int, ...]] = {}
        self._judged: dict[tuple[str, int, tuple[int, ...]], bool] = {}

    def learn(self, client: Client, texts: Sequence[str]) -> None:
        """Ask each version alone, and let PEFT confirm it; versions must tell themselves apart."""
        for text, number in itertools.product(texts, self._oracles):
            reference = f"{ADAPTER}@{number}"
            answer = client.generate(text, adapter=reference, max_tokens=self._max_tokens)
            if not self.is_own(text, number, answer.token_ids):
                raise SystemExit(f"{reference} does not say to {text!r} what PEFT says")
            self.expected[text, number] = answer.token_ids
        for text in texts:
            if len({self.expected[text, number] for number in self._oracles}) < len(self._oracles):
                raise SystemExit(f"to {text!r} two versions say the same: nothing would be proven")

    def is_own(self, text: str, number: int, token_ids: tuple[int, ...]) -> bool:
        """Whether an answer is wholly a version's own."""
        if self.expected.get((text, number)) == token_ids:
            return True
        key = (text, number, token_ids)
        if key not in self._judged:
            oracle = self._oracles[number]
            self._judged[key] = oracle.is_greedy(oracle.prompt(text), token_ids)
        return self._judged[key]


def publish(client: Client, base: Path, folder: Path, number: int) -> list[Path]:
    """Publish so many random versions of one adapter; give their folders."""
    workload = Workload(num_adapters=number)
    write_adapters(base, folder, workload)
    folders = [folder / name for name in workload.adapters]
    client.adapters.create(ADAPTER)
    for place in folders:
        client.versions.push(ADAPTER, place, base=BASE)
    return folders
