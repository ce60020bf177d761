"""An alias that moves all the time under load: is anything lost, mixed or held up?

    python bench/swap.py [--seconds 60] [--tiny]

Sixteen callers ask through an alias that moves every 200 ms over four versions; then the same
callers ask the four versions by number, so that the batch is as mixed but nothing moves. Each
answer is compared with what its version says by itself, by PEFT. Writes docs/bench/swap.json and
the table of docs/performance.md; with --tiny only prints.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import machine
import page
from rich.console import Console
from rich.progress import track
from rich.table import Table
from running import ADAPTER, Judge, Running, base_of, publish, serve

from loradock.client import AsyncClient, Client, Generation, LoradockError

OUT = page.ROOT / "docs" / "bench" / "swap.json"
CALLERS = 16
VERSIONS = 4
EVERY_S = 0.2
WARM_UP_S = 3.0
MAX_TOKENS = 32
TEXTS = [f"Question {n}: where is my parcel?" for n in range(6)]

console = Console()


@dataclass(slots=True)
class Arm:
    """What came of one run."""

    name: str
    seconds: float
    answers: list[tuple[str, Generation]] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    swaps_s: list[float] = field(default_factory=list)  # from SetAlias to all servers following
    gaps_s: list[float] = field(default_factory=list)  # the longest one of each request
    num_overtaken: int = 0  # moves that were refused since the next one was already made
    num_wrong: int = 0


def main() -> None:
    """Run both arms, judge every answer, show, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--tiny", action="store_true", help="a tiny random base; writes nothing")
    options = parser.parse_args()
    arms = measure(options.seconds, tiny=options.tiny)
    show(arms)
    if not options.tiny:
        write(arms)
    if any(arm.num_wrong or arm.failures for arm in arms):
        raise SystemExit("calls were lost, or answers were mixed")


def measure(seconds: float, *, tiny: bool) -> list[Arm]:
    """Serve, publish, run both arms and judge them."""
    with tempfile.TemporaryDirectory(prefix="loradock-bench-") as name:
        folder = Path(name)
        base = base_of(folder, tiny=tiny)
        with serve(base, folder, "--dtype", "float32") as server:
            with Client(server.address) as client:
                versions = publish(client, base, folder / "adapters", VERSIONS)
                client.aliases.set(ADAPTER, "production", 1, reason="begin")
                judge = Judge(base, versions, max_tokens=MAX_TOKENS)
                judge.learn(client, TEXTS)
            asyncio.run(run("warming up", server, WARM_UP_S, is_moving=True))
            arms = [
                asyncio.run(run("moving", server, seconds, is_moving=True)),
                asyncio.run(run("not moving", server, seconds, is_moving=False)),
            ]
    for arm in arms:
        arm.num_wrong = sum(not is_own(judge, text, answer) for text, answer in arm.answers)
    return arms


def is_own(judge: Judge, text: str, answer: Generation) -> bool:
    """Whether an answer is that of the version that it names."""
    number = answer.answerer.version_number
    return number is not None and judge.is_own(text, number, answer.token_ids)


async def run(name: str, server: Running, seconds: float, *, is_moving: bool) -> Arm:
    """Ask for so long, with the alias moving or not."""
    arm = Arm(name, seconds)
    known = sum(1 for _ in server.lines())
    end_at = time.monotonic() + seconds
    async with AsyncClient(server.address) as client:
        callers = [ask_on(client, arm, n, end_at, by_alias=is_moving) for n in range(CALLERS)]
        others = [move_on(client, arm, end_at)] if is_moving else []
        await asyncio.gather(*callers, *others, show_time(name, seconds))
    lines = list(server.lines())[known:]
    answered = [line for line in lines if line["message"] == "answered"]
    arm.gaps_s = [
        float(str(line["longest_gap_s"])) for line in answered if line.get("longest_gap_s")
    ]
    return arm


async def ask_on(
    client: AsyncClient, arm: Arm, caller: int, end_at: float, *, by_alias: bool
) -> None:
    """Be one caller."""
    turn = caller
    while time.monotonic() < end_at:
        text = TEXTS[turn % len(TEXTS)]
        reference = ADAPTER if by_alias else f"{ADAPTER}@{turn % VERSIONS + 1}"
        turn += 5
        try:
            answer = await client.generate(text, adapter=reference, max_tokens=MAX_TOKENS)
        except LoradockError as error:
            arm.failures[error.reason] += 1
        else:
            arm.answers.append((text, answer))


async def move_on(client: AsyncClient, arm: Arm, end_at: float) -> None:
    """Move the alias at every beat, whether or not the last move has been followed."""
    moves: list[asyncio.Task[None]] = []
    turn = 0
    while time.monotonic() < end_at:
        turn += 1
        moves.append(asyncio.create_task(move(client, arm, turn % VERSIONS + 1)))
        await asyncio.sleep(EVERY_S)
    await asyncio.gather(*moves)


async def move(client: AsyncClient, arm: Arm, number: int) -> None:
    """Move the alias, and take the time until the server answers with it."""
    begun = time.monotonic()
    try:
        moved = await client.aliases.set(ADAPTER, "production", number, reason="bench", wait_s=10)
    except LoradockError as error:
        if error.reason == "STALE_GENERATION":  # the next beat's move came first: as it must be
            arm.num_overtaken += 1
        else:
            arm.failures[f"move: {error.reason}"] += 1
        return
    if moved.following is None or moved.following.num_following < moved.following.num_servers:
        arm.failures["move: not followed"] += 1
    arm.swaps_s.append(time.monotonic() - begun)


async def show_time(name: str, seconds: float) -> None:
    """Show how far it is, on a terminal."""
    if not console.is_terminal:
        return
    for _ in track(range(int(seconds * 5)), description=name, console=console, transient=True):
        await asyncio.sleep(0.2)


def figures(arm: Arm) -> dict[str, str]:
    """Give what the table says of a run."""
    num_failed = sum(arm.failures.values())
    return {
        "calls": f"{len(arm.answers) + num_failed}",
        "calls that failed": f"{num_failed}",
        "answers that are not their version's own": f"{arm.num_wrong}",
        "moves of the alias": f"{len(arm.swaps_s)}",
        "moves overtaken by the next": f"{arm.num_overtaken}",
        "ms until a move is followed, median": _ms(arm.swaps_s, 0.5),
        "ms until a move is followed, p99": _ms(arm.swaps_s, 0.99),
        "ms of a request's longest gap between tokens, median": _ms(arm.gaps_s, 0.5),
        "ms of a request's longest gap between tokens, p99": _ms(arm.gaps_s, 0.99),
        "ms of the longest gap of all": _ms(arm.gaps_s, 1.0),
        "output tokens/s": f"{_tokens(arm) / arm.seconds:.0f}",
    }


def _ms(seconds: Sequence[float], share: float) -> str:
    if not seconds:
        return ""
    ordered = sorted(seconds)
    return f"{1000 * ordered[min(int(share * len(ordered)), len(ordered) - 1)]:.0f}"


def _tokens(arm: Arm) -> int:
    return sum(len(answer.token_ids) for _, answer in arm.answers)


def rows(arms: Sequence[Arm]) -> list[list[str]]:
    """Give the table's rows."""
    columns = [figures(arm) for arm in arms]
    return [[name, *(column[name] for column in columns)] for name in columns[0]]


def show(arms: Sequence[Arm]) -> None:
    """Print the table."""
    table = Table("what", title=f"{CALLERS} callers, on {machine.describe()}")
    for arm in arms:
        table.add_column(arm.name, justify="right")
    for row in rows(arms):
        table.add_row(*row)
    console.print(table)


def write(arms: Sequence[Arm]) -> None:
    """Write the record, and the page's table."""
    record = {
        "machine": machine.describe(),
        "callers": CALLERS,
        "versions": VERSIONS,
        "every_s": EVERY_S,
        "arms": [
            {
                "name": arm.name,
                "seconds": arm.seconds,
                "calls": len(arm.answers),
                "failures": dict(arm.failures),
                "wrong": arm.num_wrong,
                "by_version": Counter(a.answerer.version_number for _, a in arm.answers),
                "swap_s": [round(s, 5) for s in sorted(arm.swaps_s)],
                "longest_gap_s": {
                    "median": statistics.median(arm.gaps_s),
                    "max": max(arm.gaps_s),
                },
            }
            for arm in arms
        ],
    }
    OUT.write_text(json.dumps(record, indent=1) + "\n")
    page.fill("swap", ("what", *(arm.name for arm in arms)), rows(arms))


if __name__ == "__main__":
    main()
