"""S14: two servers, one PostgreSQL, one S3 endpoint; each is replaced while the SDK asks on."""

from __future__ import annotations

import itertools
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from processes import START_TIMEOUT_S
from real_server import BASE, LORADOCK, RealServer, TinyAdapters, make_base

from loradock.client import Client
from loradock.registry.registry import open_registry

CALLERS = 8
TEXTS = [f"question {n}" for n in range(6)]
LONG = 120  # tokens: some answers always run while a server is told to go


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Replica:
    """One of the servers: the same port and data folder, process after process."""

    def __init__(self, model: Path, folder: Path) -> None:
        self.port = free_port()
        self._log = folder / "log.txt"
        folder.mkdir()
        self._command = [
            *(str(LORADOCK), "serve", "--model", str(model), "--model-name", BASE),
            *("--dtype", "float32", "--threads", "1", "--port", str(self.port)),
            *("--data-dir", str(folder), "--follow-interval-s", "0.2"),
            *("--heartbeat-interval-s", "0.5"),
        ]
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start, and come back once it serves."""
        with self._log.open("a") as log:
            self.process = subprocess.Popen(
                self._command, stdout=subprocess.PIPE, stderr=log, text=True
            )
        killer = threading.Timer(START_TIMEOUT_S, self.process.kill)
        killer.start()
        assert self.process.stdout
        said = self.process.stdout.readline()
        killer.cancel()
        assert said.startswith("loradock is serving"), self._log.read_text()

    def stop(self) -> int:
        """Tell it to go, as an orchestrator does; give its exit code."""
        assert self.process
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(60)
        assert self.process.stdout
        self.process.stdout.close()
        self.process = None
        return code

    def kill(self) -> None:
        if self.process:
            self.process.kill()
            self.process.communicate()


@contextmanager
def replicas(folder, postgres_url, s3_url, monkeypatch):
    """Two servers over one catalog and one store."""
    monkeypatch.setenv("LORADOCK_DATABASE_URL", postgres_url)
    monkeypatch.setenv("LORADOCK_BLOB_URL", s3_url)
    open_registry(postgres_url, s3_url, migrate=True).close()
    model = make_base(folder / "model")
    pair = [Replica(model, folder / name) for name in ("a", "b")]
    try:
        with ThreadPoolExecutor() as pool:
            list(pool.map(Replica.start, pair))
        yield pair, RealServer("", model, folder, [])
    finally:
        for replica in pair:
            replica.kill()


class Callers:
    """Threads that ask over one client, and note what came of it."""

    def __init__(self, client: Client, expected: dict[str, str], pause_s: float) -> None:
        """Pause between answers, to leave something of the machine to what starts."""
        self._client = client
        self._expected = expected
        self._pause_s = pause_s
        self._stop = threading.Event()
        self.answered: Counter[str] = Counter()  # by server
        self.longest_s = 0.0
        self._pool = ThreadPoolExecutor(CALLERS)
        self._futures = [self._pool.submit(self._ask_on, n) for n in range(CALLERS)]

    def end(self) -> None:
        """Stop asking; raise the first error that any of them had."""
        self._stop.set()
        self._pool.shutdown()
        for future in self._futures:
            future.result()

    def until(self, holds: Callable[[], bool]) -> None:
        """Go on asking until something holds; raise at once if a call was lost."""
        while not holds():
            for future in self._futures:
                if future.done():
                    future.result()
            time.sleep(0.02)

    def _ask_on(self, place: int) -> None:
        for turn in itertools.count(place):
            if self._stop.wait(self._pause_s):
                return
            text, started = TEXTS[turn % len(TEXTS)], time.monotonic()
            answer = self._client.generate(text, adapter="triage", max_tokens=LONG, timeout_s=60)
            self.longest_s = max(self.longest_s, time.monotonic() - started)
            assert answer.text == self._expected[text]
            self.answered[answer.answerer.server_id] += 1


def is_more(callers, known):
    """Whether a server has answered that did not before."""
    return len(callers.answered) > known


def roll(folder, postgres_url, s3_url, monkeypatch, *, num_restarts, pause_s):
    """Replace servers in turn, so often, and let one go; every call is answered, and rightly."""
    with replicas(folder, postgres_url, s3_url, monkeypatch) as (pair, place):
        first, second = pair
        address = f"ipv4:127.0.0.1:{first.port},127.0.0.1:{second.port}"
        with Client(address) as client:
            client.adapters.create("triage")
            client.versions.push("triage", TinyAdapters(place).folder("one"), base=BASE)
            client.aliases.set("triage", "production", 1, reason="a test")
            expected = {
                text: client.generate(text, adapter="triage@1", max_tokens=LONG).text
                for text in TEXTS
            }
            callers = Callers(client, expected, pause_s)
            callers.until(lambda: len(callers.answered) == 2)
            for replica in itertools.islice(itertools.cycle((second, first)), num_restarts):
                assert replica.stop() == 0
                replica.start()
                known = len(callers.answered)
                callers.until(partial(is_more, callers, known))
            assert first.stop() == 0
            before = sum(callers.answered.values())
            callers.until(lambda: sum(callers.answered.values()) > before + CALLERS)
            callers.end()
    return callers


@pytest.mark.contract("S14")
def test_s14_no_call_is_lost_over_a_rolling_restart(tmp_path, postgres_url, s3_url, monkeypatch):
    callers = roll(tmp_path, postgres_url, s3_url, monkeypatch, num_restarts=1, pause_s=0.2)
    assert len(callers.answered) == 3


@pytest.mark.prove
@pytest.mark.contract("S14")
def test_s14_no_call_is_lost_over_many_rolling_restarts(
    tmp_path, postgres_url, s3_url, monkeypatch, record_property
):
    callers = roll(tmp_path, postgres_url, s3_url, monkeypatch, num_restarts=16, pause_s=0.0)
    record_property("calls", sum(callers.answered.values()))
    record_property("servers", len(callers.answered))
    record_property("longest_call_s", round(callers.longest_s, 3))
