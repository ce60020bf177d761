"""The whole path on a real base: publish, serve, swap. `make demo` runs it.

Starts a server of its own, publishes three adapters with the CLI, asks the base and each adapter the
same question, then promotes and rolls back a version under traffic. Exits 0 only if all of it held.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from demo_server import BASE, Server, server
from demo_swap import swap_under_traffic
from fetch_base import fetch_base
from rich.console import Console
from rich.live import Live
from rich.table import Table

from loradock.client import Client

HERE = Path(__file__).parent
TASKS = {"support-triage": "v1", "order-extract": "v1", "pii-redact": "v1"}
QUESTION = (
    "Hi, this is Ana Petrov (ana.petrov@example.com). I was charged twice for order 7731-20, "
    "please refund me."
)
EVALUATED_ROWS = 32  # of each suite; `loradock eval run` without --limit takes all

console = Console()


def main() -> int:
    """Run the four acts; return the exit code."""
    base = fetch_base()
    with tempfile.TemporaryDirectory(prefix="loradock-demo-") as folder:
        console.rule("1. one resident base, one server")
        with server(base, Path(folder)) as running:
            console.print(f"loradock is serving [b]{BASE}[/] on {running.address}")
            publish(running)
            with Client(running.address) as client:
                ask_everyone(client)
                held = swap_under_traffic(client, running, console)
    console.rule("5. your turn")
    console.print(
        f"  .venv/bin/loradock serve --model {base} --model-name {BASE}\n"
        "  .venv/bin/loradock generate --base 'What is a LoRA adapter?'\n"
        "and publish with `.venv/bin/loradock adapter push`, as the README shows.",
        highlight=False,
        soft_wrap=True,
    )
    return 0 if held else 1


def publish(running: Server) -> None:
    """Push every example with its lineage, measure it, and point `production` at it."""
    console.rule("2. three adapters, published with the CLI")
    for task, version in TASKS.items():
        running.cli("adapter", "push", task, HERE / task / version, "--base", BASE)
        running.cli("alias", "set", f"{task}:production", "1", "--reason", "first version")
        suite = HERE / task / "suite.toml"
        limit = ("--limit", str(EVALUATED_ROWS))
        running.cli("eval", "run", suite, "--base", *limit)
        running.cli("eval", "run", suite, "--adapter", f"{task}@1", *limit)
    running.cli("adapter", "push", "support-triage", HERE / "support-triage/v2", "--base", BASE)
    running.cli(
        "eval", "run", HERE / "support-triage/suite.toml", "--adapter", "support-triage@2", *limit
    )
    running.cli("eval", "list")


def ask_everyone(client: Client) -> None:
    """Stream one question's answers from the base and from each adapter, side by side."""
    console.rule("3. one question, four answerers")
    console.print(f"[dim]{QUESTION}[/]\n")
    answers = {name: "" for name in ("the base", *TASKS)}
    lock = threading.Lock()

    def stream(name: str, show: Callable[[], None]) -> None:
        target = {"base": True} if name == "the base" else {"adapter": name}
        with client.stream(QUESTION, max_tokens=64, **target) as pieces:
            for piece in pieces:
                with lock:
                    answers[name] += piece.text
                    show()

    with Live(_side_by_side(answers), console=console, transient=not console.is_terminal) as live:
        with ThreadPoolExecutor(len(answers)) as pool:
            list(
                pool.map(lambda n: stream(n, lambda: live.update(_side_by_side(answers))), answers)
            )
    if not console.is_terminal:
        console.print(_side_by_side(answers))


def _side_by_side(answers: dict[str, str]) -> Table:
    table = Table(expand=True)
    for name in answers:
        table.add_column(name, ratio=2 if name in ("the base", "pii-redact") else 1)
    table.add_row(*answers.values())
    return table


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as error:
        console.print(f"[red]this failed:[/] {error}")
        sys.exit(1)
