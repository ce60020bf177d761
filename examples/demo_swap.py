"""The demo's fourth act: promote and roll back while callers run, and check every answer."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from demo_server import Server
from rich.console import Console

from loradock.client import Client, LoradockError

TASK = "support-triage"
CALLERS = 16
PHASE_S = 4.0  # how long callers run on each version
Oracle = Mapping[tuple[str, int], str]  # (message, version number) -> that version's greedy answer


@dataclass(slots=True)
class Tally:
    """What the callers saw. One lock guards it."""

    by_version: Counter[int] = field(default_factory=Counter)
    first_seen: list[tuple[int, float]] = field(default_factory=list)  # each change of answerer
    failures: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


def swap_under_traffic(client: Client, running: Server, console: Console) -> bool:
    """Promote v2 and roll back under 16 callers; tell whether everything held."""
    console.rule(f"4. {CALLERS} callers, a promotion and a rollback")
    messages = _messages_told_apart(client)
    oracle = {(m, v): answer for m, answers in messages.items() for v, answer in answers.items()}
    tally, stop, times = Tally(), threading.Event(), []
    with ThreadPoolExecutor(CALLERS) as pool:
        calls = [
            pool.submit(_call_until, stop, client, list(messages), offset, oracle, tally)
            for offset in range(CALLERS)
        ]
        time.sleep(PHASE_S)
        times.append(_promote(client))
        time.sleep(PHASE_S)
        times.append(_roll_back(client))
        time.sleep(PHASE_S)
        stop.set()
        for call in calls:
            call.result()
    running.cli("alias", "history", f"{TASK}:production")
    return _report(tally, times, console)


def _messages_told_apart(client: Client) -> dict[str, dict[int, str]]:
    """Held-out messages that v1 and v2 answer differently, with each one's own answer."""
    rows = (Path(__file__).parent / TASK / "heldout.jsonl").read_text().splitlines()
    messages = [json.loads(row)["input"] for row in rows[:48]]

    def ask(pair: tuple[str, int]) -> str:
        message, version = pair
        return client.generate(message, adapter=f"{TASK}@{version}").text

    with ThreadPoolExecutor(CALLERS) as pool:
        pairs = list(itertools.product(messages, (1, 2)))
        answers = dict(zip(pairs, pool.map(ask, pairs), strict=True))
    told = {m: {v: answers[m, v] for v in (1, 2)} for m in messages}
    return {m: by for m, by in told.items() if by[1] != by[2]}


def _call_until(
    stop: threading.Event,
    client: Client,
    messages: list[str],
    offset: int,
    oracle: Oracle,
    tally: Tally,
) -> None:
    for turn in itertools.count(offset):
        if stop.is_set():
            return
        message = messages[turn % len(messages)]
        try:
            answer = client.generate(message, adapter=TASK)
        except LoradockError as error:
            with tally.lock:
                tally.failures.append(str(error))
            continue
        version = answer.answerer.version_number
        with tally.lock:
            if not tally.by_version[version] or tally.first_seen[-1][0] != version:
                tally.first_seen.append((version, time.perf_counter()))
            tally.by_version[version] += 1
            if answer.text != oracle[message, version]:
                tally.wrong.append(f"v{version} said {answer.text!r}")


def _promote(client: Client) -> tuple[str, float]:
    alias = client.aliases.get(TASK, "production")
    begun = time.perf_counter()
    client.aliases.set(TASK, "production", 2, etag=alias.etag, reason="better scores", wait_s=10)
    return "promoted v2", time.perf_counter() - begun


def _roll_back(client: Client) -> tuple[str, float]:
    alias = client.aliases.get(TASK, "production")
    begun = time.perf_counter()
    client.aliases.rollback(TASK, "production", etag=alias.etag, reason="the demo", wait_s=10)
    return "rolled back to v1", time.perf_counter() - begun


def _report(tally: Tally, times: list[tuple[str, float]], console: Console) -> bool:
    total = sum(tally.by_version.values())
    for what, seconds in times:
        console.print(f"  {what} in {seconds * 1000:.0f} ms, live on the server")
    console.print(f"  calls: {total}, failed: {len(tally.failures)}")
    for version, count in sorted(tally.by_version.items()):
        console.print(f"  answered by v{version}: {count}")
    console.print(f"  answers that were not their version's own: {len(tally.wrong)}")
    for line in (tally.failures + tally.wrong)[:5]:
        console.print(f"    [red]{line}[/]")
    both = tally.by_version[1] > 0 and tally.by_version[2] > 0
    return both and not tally.failures and not tally.wrong
