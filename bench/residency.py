"""What it costs that not everything fits: waits for what is cold, or must be loaded again.

    python bench/residency.py [--tiny]

The adapters lie in an S3 endpoint behind a proxy that delays each answer. First cold loads, split
into their parts, by the store's latency; then a hundred callers of one cold adapter beside a row
that runs; then 8, 16 and 64 adapters in turn, uniform and Zipf, through a server whose memory holds
8 of them and whose disk holds all. Writes docs/bench/residency.json and the tables of
docs/performance.md; with --tiny only prints.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import machine
import page
import running  # noqa: F401 - first: it makes what tests use importable
from fault_proxy import FaultProxy
from processes import serving
from rich.console import Console
from rich.table import Table
from running import ADAPTER, BASE, Running, base_of, serve
from services import make_bucket
from workload import Workload, write_adapters

from loradock.client import AsyncClient, Client

OUT = page.ROOT / "docs" / "bench" / "residency.json"
NUM_SLOTS = 8
NUMBERS = (NUM_SLOTS, 2 * NUM_SLOTS, 8 * NUM_SLOTS)
DELAYS_MS = (20, 100, 300)
NUM_COLD = 5  # for each delay
NUM_CALLERS = 100
CALLERS_DELAY_S = 0.1
NUM_REQUESTS = 240
NUM_AT_ONCE = 4
PARTS = ("fetch", "verify", "activate")
COLD_HEAD = ("answers of the store after", *(f"{part}, ms" for part in PARTS), "first token, ms")
TURNS_HEAD = ("adapters", "popularity", "reloads", "first token p50, ms", "p95, ms", "p50 to N = 8")

Cold = dict[str, float]
console = Console()


def main() -> None:
    """Measure, show, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="a tiny random base; writes nothing")
    options = parser.parse_args()
    found = measure(tiny=options.tiny)
    show(found)
    if not options.tiny:
        OUT.parent.mkdir(exist_ok=True)
        OUT.write_text(json.dumps({"machine": machine.describe(), **found}, indent=1) + "\n")
        page.fill("residency-cold", COLD_HEAD, cold_rows(found))
        page.fill("residency-callers", ("what", "figure"), callers_rows(found))
        page.fill("residency-turns", TURNS_HEAD, turns_rows(found))


def measure(*, tiny: bool) -> dict[str, Any]:
    """Publish everything once, and run all parts."""
    with tempfile.TemporaryDirectory(prefix="loradock-bench-") as name, far_store() as store:
        folder, (proxy, url) = Path(name), store
        base = base_of(folder, tiny=tiny)
        options = ("--blob-url", url)
        with serve(base, folder, *options) as server, Client(server.address) as client:
            publish(client, base, folder / "adapters")
            with console.status("cold loads …"):
                cold = {str(ms): cold_load(server, client, proxy, ms) for ms in DELAYS_MS}
            with console.status("a hundred callers of one cold adapter …"):
                callers = asyncio.run(many_callers(server, proxy))
            for number in range(1, NUMBERS[-1] + 1):
                client.server.prefetch(f"{ADAPTER}@{number}")
            size = client.server.load(f"{ADAPTER}@1").size_bytes
        memory = ("--max-adapter-bytes", str(NUM_SLOTS * size))
        turns = []
        for number in NUMBERS:
            for popularity in ("uniform", "zipf"):
                with serve(base, folder, *options, *memory) as server:
                    turns.append(asyncio.run(in_turn(server, number, popularity)))
    return {"adapter_bytes": size, "cold": cold, "callers": callers, "turns": turns}


@contextmanager
def far_store() -> Iterator[tuple[FaultProxy, str]]:
    """Start an S3 endpoint with a bucket, and a proxy before it; give the URL through it."""
    os.environ |= {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    os.environ |= {"AWS_DEFAULT_REGION": "us-east-1"}
    moto = Path(sys.executable).parent / "moto_server"
    says = r"(http://127\.0\.0\.1:\d+)"
    with (
        serving(moto, "-H", "127.0.0.1", "-p", "0", says=says) as endpoint,
        FaultProxy.of_store(make_bucket(endpoint)) as store,
    ):
        yield store


def publish(client: Client, base: Path, folder: Path) -> None:
    """Publish as many versions as are ever asked for."""
    workload = Workload(num_adapters=NUMBERS[-1], ranks=(8,))
    write_adapters(base, folder, workload)
    client.adapters.create(ADAPTER)
    for name in workload.adapters:
        client.versions.push(ADAPTER, folder / name, base=BASE)


def cold_load(server: Running, client: Client, proxy: FaultProxy, delay_ms: int) -> Cold:
    """Ask versions that are nowhere near, one after the other; give the medians."""
    first = 1 + DELAYS_MS.index(delay_ms) * NUM_COLD
    known = len(loads(server))
    proxy.delay(delay_ms / 1000)
    waits_ms = []
    for number in range(first, first + NUM_COLD):
        answer = client.generate("Hello!", adapter=f"{ADAPTER}@{number}", max_tokens=1)
        waits_ms.append(1000 * answer.timings.first_token_s)
    proxy.pass_on()
    told = loads(server)[known:]
    parts = {
        part: 1000 * statistics.median(float(str(t[f"{part}_s"])) for t in told) for part in PARTS
    }
    return {**parts, "first token": statistics.median(waits_ms)}


def loads(server: Running) -> list[dict[str, object]]:
    """Read the log's lines on loads."""
    return [line for line in server.lines() if line["message"] == "adapter is resident"]


async def many_callers(server: Running, proxy: FaultProxy) -> dict[str, float]:
    """Let a hundred ask for one cold adapter at once, beside answers of the base that go on."""
    number, known = 1 + len(DELAYS_MS) * NUM_COLD, len(loads(server))
    async with AsyncClient(server.address) as client:
        alone_s = await longest_gap_s(server, client)
        proxy.requests.clear()
        proxy.delay(CALLERS_DELAY_S)
        loading = asyncio.create_task(loaded(client, number))
        beside_s = await longest_gap_s(server, client, until=loading)
        proxy.pass_on()
    gets = [line for line in proxy.requests if line.startswith("GET ") and "/blobs/" in line]
    return {
        "callers": NUM_CALLERS,
        "GETs": len(gets),
        "loads": len(loads(server)) - known,
        "ms from a token to the next at most, of a row that runs alone": 1000 * alone_s,
        "ms so while the adapter was fetched and loaded": 1000 * beside_s,
    }


async def loaded(client: AsyncClient, number: int) -> None:
    """Have a hundred operators ask for it: the loading alone, without their steps in the batch."""
    asks = (client.server.load(f"{ADAPTER}@{number}") for _ in range(NUM_CALLERS))
    await asyncio.gather(*asks)


async def longest_gap_s(
    server: Running, client: AsyncClient, until: asyncio.Task[None] | None = None
) -> float:
    """Ask the base, again and again until something is done; give the longest gap of any answer."""
    known = sum(1 for _ in server.lines())
    while True:
        await client.generate("Tell me a story.", base=True, max_tokens=200)
        if until is None or until.done():
            break
    lines = list(server.lines())[known:]
    return max(float(str(line["longest_gap_s"])) for line in lines if line.get("longest_gap_s"))


async def in_turn(server: Running, number: int, popularity: str) -> dict[str, object]:
    """Ask `number` adapters, a few at once; give what it took to the first token."""
    draw = random.Random(number)
    weights = [1 / (i + 1) if popularity == "zipf" else 1.0 for i in range(number)]
    asked = iter(draw.choices(range(1, number + 1), weights, k=NUM_REQUESTS))
    waits_ms: list[float] = []

    async def caller(client: AsyncClient) -> None:
        for version in asked:
            answer = await client.generate("Hello!", adapter=f"{ADAPTER}@{version}", max_tokens=1)
            waits_ms.append(1000 * answer.timings.first_token_s)

    async with AsyncClient(server.address) as client:
        for version in range(1, min(number, NUM_SLOTS) + 1):
            await client.server.load(f"{ADAPTER}@{version}")
        before = len(loads(server))
        await asyncio.gather(*(caller(client) for _ in range(NUM_AT_ONCE)))
    return {
        "adapters": number,
        "popularity": popularity,
        "reloads": len(loads(server)) - before,
        "p50_ms": statistics.median(waits_ms),
        "p95_ms": statistics.quantiles(waits_ms, n=20)[18],
    }


def cold_rows(found: dict[str, Any]) -> list[tuple[str, ...]]:
    """Tell cold loads by latency."""
    return [
        (f"{ms} ms", *(f"{figures[part]:.0f}" for part in (*PARTS, "first token")))
        for ms, figures in found["cold"].items()
    ]


def callers_rows(found: dict[str, Any]) -> list[tuple[str, ...]]:
    """Tell of the hundred callers."""
    return [(name, f"{figure:.0f}") for name, figure in found["callers"].items()]


def turns_rows(found: dict[str, Any]) -> list[tuple[str, ...]]:
    """Tell of adapters in turn, each beside what it is where all of them fit."""
    fitting = {t["popularity"]: t["p50_ms"] for t in found["turns"] if t["adapters"] == NUM_SLOTS}
    return [
        (
            str(turn["adapters"]),
            turn["popularity"],
            f"{turn['reloads']} of {NUM_REQUESTS}",
            f"{turn['p50_ms']:.1f}",
            f"{turn['p95_ms']:.1f}",
            f"{turn['p50_ms'] / fitting[turn['popularity']]:.1f} x",
        )
        for turn in found["turns"]
    ]


def show(found: dict[str, Any]) -> None:
    """Print the tables."""
    tables: dict[str, tuple[Sequence[str], list[tuple[str, ...]]]] = {
        "cold loads": (COLD_HEAD, cold_rows(found)),
        "one cold adapter": (("what", "figure"), callers_rows(found)),
        f"adapters in turn, of which {NUM_SLOTS} fit": (TURNS_HEAD, turns_rows(found)),
    }
    for title, (head, rows) in tables.items():
        table = Table(title=f"{title}, on {machine.describe()}")
        for name in head:
            table.add_column(name)
        for row in rows:
            table.add_row(*row)
        console.print(table)


if __name__ == "__main__":
    main()
