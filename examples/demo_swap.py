"""The demo's fourth act: promote and roll back while callers run, and check every answer."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from demo_server import Server
from demo_tally import Call, Tally
from rich.live import Live

from loradock.client import AliasChange, Client, LoradockError

TASK = "support-triage"
CALLERS = 16
PHASE_S = 4.0  # how long callers run on each version
NUM_MESSAGES = 48  # held-out messages to find those in that v1 and v2 answer differently
WAIT_S = 10.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """Something that the demo claims, and whether it held."""

    claim: str
    held: bool


@dataclass(frozen=True, slots=True)
class Move:
    """One move of the alias under traffic."""

    what: str
    to: int
    begun: float
    done: float
    is_followed: bool


class Callers:
    """Threads that ask without pause until stopped, and tell what they saw."""

    def __init__(self, client: Client, own: dict[str, dict[int, str]], tally: Tally) -> None:
        self._client, self._own, self._tally = client, own, tally
        self._stopped = threading.Event()
        self._pool = ThreadPoolExecutor(CALLERS)
        self._running: list[Future[None]] = []

    def __enter__(self) -> Callers:
        self._running = [self._pool.submit(self._call, offset) for offset in range(CALLERS)]
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._pool.shutdown()

    def check(self) -> None:
        """Raise what a caller raised, other than what the server answered."""
        for running in self._running:
            running.result()

    def _call(self, offset: int) -> None:
        messages = list(self._own)
        for turn in itertools.count(offset):
            if self._stopped.is_set():
                return
            self._tally.add(self._ask(messages[turn % len(messages)]))

    def _ask(self, message: str) -> Call:
        begun = time.monotonic()
        try:
            answer = self._client.generate(message, adapter=TASK)
        except LoradockError as error:
            return Call(begun, time.monotonic(), failure=str(error))
        version = answer.answerer.version_number
        is_own = version is not None and answer.text == self._own[message].get(version)
        return Call(begun, time.monotonic(), version=version, is_own=is_own, text=answer.text)


def swap_under_traffic(client: Client, running: Server) -> list[Verdict]:
    """Promote v2 and roll back under callers; tell what held."""
    own = own_answers(client)
    console, tally = running.console, Tally()
    running.say(
        f"  asking {len(own)} messages that v1 and v2 answer differently, each answer checked\n"
    )
    with (
        Live(get_renderable=tally.drawn, console=console, refresh_per_second=8),
        Callers(client, own, tally) as callers,
    ):
        time.sleep(PHASE_S)
        promotion = _moved("promoted v2", lambda: _promote(client))
        time.sleep(PHASE_S)
        rollback = _moved("rolled back to v1", lambda: _roll_back(client))
        time.sleep(PHASE_S)
    callers.check()
    console.print()
    for move in (promotion, rollback):
        running.say(f"  {move.what}: {_times(move, tally)}")
    running.say(running.cli("alias", "history", f"{TASK}:production"))
    return _verdicts(tally, [promotion, rollback])


def own_answers(client: Client) -> dict[str, dict[int, str]]:
    """Give the messages that v1 and v2 answer differently, with each version's own answer."""
    rows = (Path(__file__).parent / TASK / "heldout.jsonl").read_text().splitlines()
    messages = [json.loads(row)["input"] for row in rows[:NUM_MESSAGES]]
    pairs = list(itertools.product(messages, (1, 2)))

    def ask(pair: tuple[str, int]) -> str:
        return client.generate(pair[0], adapter=f"{TASK}@{pair[1]}").text

    with ThreadPoolExecutor(CALLERS) as pool:
        answers = dict(zip(pairs, pool.map(ask, pairs), strict=True))
    told = {
        message: {number: answers[message, number] for number in (1, 2)} for message in messages
    }
    return {
        message: by_number for message, by_number in told.items() if by_number[1] != by_number[2]
    }


def _moved(what: str, move: Callable[[], AliasChange]) -> Move:
    begun = time.monotonic()
    change = move()
    followed = change.following is not None and change.following.is_complete
    return Move(what, change.alias.version_number, begun, time.monotonic(), followed)


def _promote(client: Client) -> AliasChange:
    etag = client.aliases.get(TASK, "production").etag
    return client.aliases.set(
        TASK, "production", 2, etag=etag, reason="better on the held-out rows", wait_s=WAIT_S
    )


def _roll_back(client: Client) -> AliasChange:
    return client.aliases.rollback(TASK, "production", reason="just to see it", wait_s=WAIT_S)


def _times(move: Move, tally: Tally) -> str:
    swapped = (move.done - move.begun) * 1000
    first = tally.first_done(move.to, since=move.begun)
    answered = "nobody" if first is None else f"{(first - move.begun) * 1000:.0f} ms"
    return f"live after {swapped:.0f} ms, v{move.to}'s first answer after {answered}"


def _verdicts(tally: Tally, moves: list[Move]) -> list[Verdict]:
    counts, calls = tally.by_version(), tally.calls()
    failures = [call for call in calls if call.failure]
    foreign = [call for call in calls if not call.failure and not call.is_own]
    late = tally.late(moves[0].done, moves[1].begun, 2) + tally.late(moves[1].done, None, 1)
    shares = ", ".join(f"{count} by v{version}" for version, count in sorted(counts.items()))
    both = set(counts) == {1, 2} and all(move.is_followed for move in moves)
    return [
        Verdict(f"{len(calls)} calls by {CALLERS} callers, {len(failures)} failed", not failures),
        Verdict(f"answered {shares}", both),
        Verdict(f"{len(foreign)} answers were not their version's own", not foreign),
        Verdict(f"{late} calls begun after a move were answered by the version before", not late),
    ]
