"""What a soak does to a server, all at once, until its time is over; and what it sees of it."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from fault_proxy import FaultProxy
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from running import ADAPTER, Running
from soak_report import Sample, read_sample

from loradock.client import AsyncClient, Generation, LoradockError, ResidencyState, ServerStatus

CALLERS = 8
VERSIONS = 12
MAX_TOKENS = 24
TEXTS = [f"question {n}" for n in range(4)]
FAULT_S, RECOVERY_S = 2.0, 10.0
SETTLE_S = 60.0
# What callers may be told: while the network is broken or has just been; and at any time, where
# there is no room for what they want.
OF_FAULTS = {"STORE_UNAVAILABLE", "CATALOG_UNAVAILABLE", "ADAPTER_LOAD_FAILED", "DEADLINE_EXCEEDED"}
AT_ANY_TIME = {"ADAPTER_MEMORY_FULL", "QUEUE_FULL"}


@dataclass(slots=True)
class Seen:
    """What came of it."""

    answers: list[tuple[str, int, tuple[int, ...]]] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)  # by kind
    refusals: Counter[str] = field(default_factory=Counter)  # by reason
    unexplained: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    samples: list[Sample] = field(default_factory=list)
    left: list[str] = field(default_factory=list)  # what did not go away at the end
    errors: list[dict[str, object]] = field(default_factory=list)  # of the server's log


class Soak:
    """One soak. Its draws follow from a seed; its timing does not."""

    def __init__(
        self, server: Running, proxies: dict[str, FaultProxy], seconds: float, seed: int
    ) -> None:
        self._server = server
        self._proxies = proxies
        self._seconds = seconds
        self._draw = random.Random(seed)
        self._begun = time.monotonic()
        self._excused_until = 0.0  # by a fault
        self.seen = Seen()

    async def run(self, console: Console) -> None:
        """Do everything until the time is over, then see what is left."""
        async with AsyncClient(self._server.address, timeout_s=20) as client:
            await asyncio.gather(
                *(self._repeat(self._call, client, 0.0) for _ in range(CALLERS)),
                self._repeat(self._move, client, 0.5),
                self._repeat(self._load_or_unload, client, 0.7),
                self._break_network(),
                self._watch(console),
            )
            await self._settle(client)

    @property
    def _left_s(self) -> float:
        return self._begun + self._seconds - time.monotonic()

    async def _repeat(
        self,
        what: Callable[[AsyncClient], Awaitable[None]],
        client: AsyncClient,
        pause_s: float,
    ) -> None:
        while self._left_s > 0:
            try:
                await what(client)
            except LoradockError as error:
                self._note(error)
            await asyncio.sleep(pause_s)

    def _note(self, error: LoradockError, *, is_asked_for: bool = False) -> None:
        self.seen.refusals[error.reason] += 1
        is_excused = error.reason in OF_FAULTS and time.monotonic() < self._excused_until
        if not (is_asked_for or is_excused or error.reason in AT_ANY_TIME):
            self.seen.unexplained[f"{error.reason}: {error}"[:200]] += 1

    def _reference(self) -> str:
        """Draw who is asked: mostly few versions, now and then all of them."""
        if self._draw.random() < 0.3:
            return ADAPTER
        return f"{ADAPTER}@{min(int(self._draw.paretovariate(0.8)), VERSIONS)}"

    async def _call(self, client: AsyncClient) -> None:
        kinds = {self._ask: 70, self._read: 10, self._leave: 8, self._hurry: 6, self._misname: 3}
        kind = self._draw.choices(list(kinds), list(kinds.values()))[0]
        self.seen.calls[kind.__name__.strip("_")] += 1
        await kind(client, self._draw.choice(TEXTS))

    async def _ask(self, client: AsyncClient, text: str) -> None:
        answer = await client.generate(text, adapter=self._reference(), max_tokens=MAX_TOKENS)
        self._keep(text, answer)

    async def _read(self, client: AsyncClient, text: str) -> None:
        async with client.stream(text, adapter=self._reference(), max_tokens=MAX_TOKENS) as answer:
            self._keep(text, await answer.result())

    async def _leave(self, client: AsyncClient, text: str) -> None:
        async with client.stream(text, adapter=self._reference(), max_tokens=400) as answer:
            async for _ in answer:
                return

    async def _hurry(self, client: AsyncClient, text: str) -> None:
        little = self._draw.uniform(0.005, 0.2)
        try:
            answer = await client.generate(
                text, adapter=self._reference(), max_tokens=MAX_TOKENS, timeout_s=little
            )
        except LoradockError as error:
            self._note(error, is_asked_for=error.reason == "DEADLINE_EXCEEDED")
        else:
            self._keep(text, answer)

    async def _misname(self, client: AsyncClient, text: str) -> None:
        try:
            await client.generate(text, adapter="nobody")
        except LoradockError as error:
            self._note(error, is_asked_for=error.reason == "NOT_FOUND")
        else:
            self.seen.unexplained["an adapter that there is not has answered"] += 1

    def _keep(self, text: str, answer: Generation) -> None:
        number = answer.answerer.version_number
        assert number is not None, "an adapter was asked"
        self.seen.answers.append((text, number, answer.token_ids))

    async def _move(self, client: AsyncClient) -> None:
        number = self._draw.randint(1, 4)
        self.seen.calls["move"] += 1
        await client.aliases.set(ADAPTER, "production", number, reason="soak")

    async def _load_or_unload(self, client: AsyncClient) -> None:
        number = self._draw.randint(1, VERSIONS)
        self.seen.calls["load or unload"] += 1
        if self._draw.random() < 0.5:
            await client.server.load(f"{ADAPTER}@{number}", timeout_s=5)
        else:
            digest = (await client.versions.get(ADAPTER, number)).digest
            try:
                await client.server.unload(digest)
            except LoradockError as error:
                self._note(error, is_asked_for=error.reason == "NOT_RESIDENT")

    async def _break_network(self) -> None:
        while self._left_s > FAULT_S + RECOVERY_S / 2:
            await asyncio.sleep(RECOVERY_S / 2)
            service = self._draw.choice(list(self._proxies))
            proxy = self._proxies[service]
            faults: dict[str, Callable[[], None]] = {
                "refuse": proxy.refuse,
                "hang": proxy.hang,
                "cut": lambda proxy=proxy: proxy.cut(beyond=3000),  # type: ignore[misc]
                "delay": lambda proxy=proxy: proxy.delay(0.3),  # type: ignore[misc]
                "throttle": lambda proxy=proxy: proxy.throttle(50_000),  # type: ignore[misc]
            }
            if service == "store":
                faults["corrupt"] = proxy.corrupt
            name = self._draw.choice(list(faults))
            self.seen.faults[f"{service}: {name}"] += 1
            self._excused_until = time.monotonic() + FAULT_S + RECOVERY_S
            await asyncio.to_thread(faults[name])
            await asyncio.sleep(FAULT_S)
            await asyncio.to_thread(proxy.pass_on)

    async def _watch(self, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
            task = progress.add_task("soaking", total=self._seconds)
            while self._left_s > 0:
                at_s = time.monotonic() - self._begun
                sample = read_sample(self._server.pid, at_s)
                self.seen.samples.append(sample)
                said = f"{sum(self.seen.calls.values())} calls, {sample.rss_mb:.0f} MB"
                progress.update(task, completed=at_s, description=said)
                await asyncio.sleep(min(1.0, max(self._left_s, 0.0)))

    async def _settle(self, client: AsyncClient) -> None:
        """Wait until nothing is held any more, and say what is held all the same."""
        give_up_at = time.monotonic() + SETTLE_S
        left = ["not looked at"]
        while left and time.monotonic() < give_up_at:
            await asyncio.sleep(0.2)
            try:
                status = await client.server.status()
                left = what_is_left(status)
                for failed in _failed(status):  # nobody asks for it, so nobody tries it again
                    await client.server.load(failed)
            except LoradockError as error:
                left = [str(error)]
        self.seen.left = left
        self.seen.samples.append(read_sample(self._server.pid, time.monotonic() - self._begun))


def _failed(status: ServerStatus) -> list[str]:
    return [
        f"{residency.adapter}@{residency.version_number}"
        for residency in status.server.residencies
        if residency.state is ResidencyState.FAILED
    ]


def what_is_left(status: ServerStatus) -> list[str]:
    """Say what an idle server should not have."""
    leases = sum(residency.num_leases for residency in status.server.residencies)
    rows = status.num_running_rows + status.num_waiting_rows
    held = [f"{leases} leases"] * bool(leases) + [f"{rows} rows"] * bool(rows)
    return [*held, *status.degraded]
