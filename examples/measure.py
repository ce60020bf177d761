"""Measure the base and every example version on all held-out rows, through a running server.

Starts a server, pushes the versions and runs `loradock eval run` on each suite, then writes what
was recorded into the table of examples/README.md. With --check it writes nothing, and fails if a
value differs from the table's.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from demo_publish import COLUMNS, TASKS
from demo_server import BASE, Server, server
from fetch_base import fetch_base
from rich.console import Console

HERE = Path(__file__).parent
PAGE = HERE / "README.md"
BEGIN, END = "<!-- measured: begin -->\n", "<!-- measured: end -->\n"
SUITES = {
    "support-triage": ("suite.toml", "choose.toml"),
    "order-extract": ("suite.toml",),
    "pii-redact": ("suite.toml",),
}
Cells = dict[tuple[str, str, str], dict[str, str]]  # (task, suite, metric) -> base, v1, v2 -> text


def main() -> int:
    """Return 0 if the page holds what was measured."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    arguments.add_argument("--check", action="store_true", help="compare with the table only")
    given = arguments.parse_args()
    console = Console(stderr=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        server(fetch_base(), Path(folder), console) as running,
    ):
        table = "\n".join(_table(_measured(running))) + "\n"
    print(table)
    before, rest = PAGE.read_text().split(BEGIN)
    told, after = rest.split(END)
    if not given.check:
        PAGE.write_text(before + BEGIN + table + END + after)
    return int(given.check and told != table)


def _measured(running: Server) -> Cells:
    cells: Cells = {}
    for task, versions in TASKS.items():
        for version in versions:
            running.cli_json("adapter", "push", task, HERE / task / version, "--base", BASE)
        for suite in SUITES[task]:
            _measure(running, task, suite, "base", "--base", cells=cells)
            for number, version in enumerate(versions, start=1):
                who = ("--adapter", f"{task}@{number}")
                _measure(running, task, suite, version, *who, cells=cells)
    return cells


def _measure(running: Server, task: str, suite: str, column: str, *who: str, cells: Cells) -> None:
    recorded = running.cli_json("eval", "run", HERE / task / suite, *who)
    for metric in recorded["metrics"]:
        cells.setdefault((task, suite, metric["name"]), {})[column] = _shown(metric)


def _shown(metric: dict[str, Any]) -> str:
    return f"{metric['value']:.2f} ({metric['low']:.2f}–{metric['high']:.2f})"


def _table(cells: Cells) -> list[str]:
    head = ["task", "suite", "metric", *COLUMNS]
    rows = [
        [f"`{task}`", suite, metric, *(shown.get(column, "") for column in COLUMNS)]
        for (task, suite, metric), shown in cells.items()
    ]
    return [f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows]]


if __name__ == "__main__":
    sys.exit(main())
