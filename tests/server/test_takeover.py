"""Two registry processes: one takes the steps of a rollout, is killed, and the other goes on."""

import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from crashing import count_calls
from tiny_registry import TinyRegistry

from loradock.client import Client, RolloutGuards, RolloutStage, RolloutState
from loradock.registry.registry import open_registry

LORADOCK = Path(sys.executable).parent / "loradock"
STAGES = [RolloutStage(percent, 0.1) for percent in (*range(1, 16), 100)]


class Process:
    """A registry process: where it listens, and how many steps it says that it took."""

    def __init__(self, place):
        options = [word for pair in place.items() for word in pair]
        command = (LORADOCK, "serve", "--roles", "registry", "--port", "0", *options)
        self.process = subprocess.Popen(
            [*command, "--follow-interval-s", "0.05"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.address = ""
        self.num_steps = 0
        self.listener = threading.Thread(target=self.listen)
        self.listener.start()

    def listen(self):
        assert self.process.stdout
        for line in self.process.stdout:
            self.num_steps += "rollout stepped" in line
            if found := re.search(r"^loradock is serving .* on (\S+)$", line):
                self.address = found[1]

    def end(self, how):
        self.process.send_signal(how)
        self.process.wait(30)
        self.listener.join()
        assert self.process.stdout
        self.process.stdout.close()


@contextmanager
def two_processes(place):
    processes = [Process(place), Process(place)]
    try:
        yield processes
    finally:
        for each in processes:
            if each.process.poll() is None:
                each.end(signal.SIGTERM)


def wait_until(holds, timeout_s=60.0):
    give_up_at = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < give_up_at, "it never came to hold"
        time.sleep(0.02)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.prove)])
def place(request, tmp_path):
    """A catalog and a blob store that two processes share, with two versions in it."""
    url, blobs = f"sqlite:///{tmp_path}/catalog.db", f"file://{tmp_path}/blobs"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres_url")
    registry = open_registry(url, blobs, migrate=True)
    tiny = TinyRegistry(registry, "default")
    for seed in (0, 1):
        tiny.publish(seed=seed)
    tiny.point(1)
    registry.close()
    return {"--database-url": url, "--blob-url": blobs, "--data-dir": str(tmp_path)}


def test_a_killed_process_is_replaced_and_every_stage_is_taken_once(place):
    registry = open_registry(place["--database-url"], place["--blob-url"])
    tiny = TinyRegistry(registry, "default")
    with closing(registry), two_processes(place) as processes:
        wait_until(lambda: all(each.address for each in processes))
        with Client(processes[0].address) as client:
            guards = RolloutGuards(min_calls=1)
            client.rollouts.start("triage", "production", 2, stages=STAGES, guards=guards)

        def is_stepped():
            count_calls(tiny)
            return any(each.num_steps > 3 for each in processes)

        wait_until(is_stepped)
        processes.sort(key=lambda each: each.num_steps)
        waiting, stepping = processes
        assert waiting.num_steps == 0, "both took steps"
        stepping.end(signal.SIGKILL)
        with Client(waiting.address) as client:

            def is_over():
                count_calls(tiny)
                state = client.rollouts.get("triage", "production").state
                return state is RolloutState.PROMOTED

            wait_until(is_over)
            history = [*client.aliases.history("triage", "production")][::-1]
        assert waiting.num_steps > 3
        shares = [move.split.percent for move in history if move.split]
        assert shares == [stage.percent for stage in STAGES]
        assert (history[-1].version_number, history[-1].generation) == (2, len(STAGES) + 2)
