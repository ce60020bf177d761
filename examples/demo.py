"""The whole path on a real base: publish, serve, swap. `make demo` runs it.

Starts a server of its own, publishes three adapters with the CLI, asks the base and each adapter
the same question, then promotes and rolls back a version under traffic. Exits 0 only if all of it
held.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from demo_publish import TASKS, publish
from demo_server import BASE, server, show_command
from demo_swap import Verdict, swap_under_traffic
from fetch_base import FetchError, fetch_base
from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table

from loradock.client import Client

HERE = Path(__file__).parent
THE_BASE = "the base alone"
QUESTION = (
    "Where is my blue kettle? It should have come on Monday, order 7731-20. Maria Jensen, "
    "maria.jensen@example.com"
)
RIGHT = {
    "support-triage": "delivery",
    "order-extract": '{"name": "Maria Jensen", "order": "7731-20", "product": "blue kettle"}',
    "pii-redact": "Where is my blue kettle? It should have come on Monday, order [ORDER]. [NAME], "
    "[EMAIL]",
}

console = Console(highlight=False)


def main() -> int:
    """Run the five acts; return the exit code."""
    begun = time.monotonic()
    base = fetch_base()
    with tempfile.TemporaryDirectory(prefix="loradock-demo-") as folder:
        verdicts = run(base, Path(folder))
    your_turn(base)
    console.rule(f"what held, in {time.monotonic() - begun:.0f} seconds")
    for verdict in verdicts:
        mark = "[green]✓[/]" if verdict.held else "[red]✗[/]"
        console.print(f"  {mark} {verdict.claim}")
    return 0 if all(verdict.held for verdict in verdicts) else 1


def run(base: Path, folder: Path) -> list[Verdict]:
    """Run what needs the server."""
    act(1, "one resident base, one server")
    begun = time.monotonic()
    with server(base, folder, console) as running, Client(running.address) as client:
        seconds = time.monotonic() - begun
        console.print(f"  serving {BASE} on {running.address} after {seconds:.1f} s\n")
        act(2, "three adapters, published and measured with the CLI")
        published = publish(running)
        act(3, "one question, four answerers, streamed through the SDK")
        answered = ask_everyone(client)
        act(4, "sixteen callers, a promotion and a rollback")
        return [published, answered, *swap_under_traffic(client, running)]


def act(number: int, title: str) -> None:
    """Open an act."""
    console.rule(f"[b]{number}. {title}[/]")


def ask_everyone(client: Client) -> Verdict:
    """Stream one question's answers from the base and from each adapter, side by side."""
    console.print(f"[dim]{QUESTION}[/]\n")
    answers = dict.fromkeys((THE_BASE, *TASKS), "")
    lock = threading.Lock()

    def stream(name: str) -> None:
        who = None if name == THE_BASE else name
        with client.stream(QUESTION, adapter=who, base=who is None, max_tokens=64) as pieces:
            for piece in pieces:
                with lock:
                    answers[name] += piece.text

    with (
        Live(get_renderable=lambda: _side_by_side(answers), console=console, refresh_per_second=12),
        ThreadPoolExecutor(len(answers)) as pool,
    ):
        list(pool.map(stream, answers))
    console.print()
    right = all(answers[task] == RIGHT[task] for task in TASKS)
    return Verdict("each adapter did its own task on one question", right)


def _side_by_side(answers: dict[str, str]) -> Table:
    table = Table(expand=True, box=box.SIMPLE_HEAD, pad_edge=False)
    for name in answers:
        table.add_column(name, ratio=1, min_width=len(name), overflow="fold")
    table.add_row(*answers.values())
    return table


def your_turn(base: Path) -> None:
    """Say how to start a server for oneself and talk to it."""
    act(5, "your turn")
    command = ["serve", "--model", str(base), "--model-name", BASE]
    show_command(console, *command)
    folder = HERE / "pii-redact/v1"
    show_command(console, "adapter", "push", "pii-redact", str(folder), "--base", BASE)
    show_command(console, "generate", "--adapter", "pii-redact@1", "Call Ana on 555-0100.")
    show_command(console, "generate", "--base", "What is a LoRA adapter?")
    console.print("[dim]  the first in one terminal, the others in another; README.md goes on[/]\n")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except FetchError as error:
        sys.exit(f"error: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(f"error: a command failed, see above (exit code {error.returncode})")
    except KeyboardInterrupt:
        sys.exit(130)
