"""The demo's second act: push, measure and promote every example with the CLI."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from demo_server import BASE, Server
from demo_swap import Verdict
from rich import box
from rich.table import Table

HERE = Path(__file__).parent
TASKS = {  # the versions of each
    "support-triage": ("v1", "v2"),
    "order-extract": ("v1",),
    "pii-redact": ("v1",),
}
NUM_ROWS = 32  # of each suite, the first ones; `python examples/measure.py` takes all
COLUMNS = ("base", "v1", "v2")
Scores = dict[str, dict[str, dict[str, Any]]]  # task -> base, v1 or v2 -> its first metric


def publish(running: Server) -> Verdict:
    """Push every example with its lineage, measure it, and point `production` at its v1."""
    scores: Scores = {}
    for task, versions in TASKS.items():
        scores[task] = {"base": _measure(running, task, "--base")}
        for number, version in enumerate(versions, start=1):
            _push(running, task, version)
            scores[task][version] = _measure(running, task, "--adapter", f"{task}@{number}")
        reason = ("--reason", "the first")
        running.cli_json("alias", "set", f"{task}:production", "1", *reason)
        running.console.print(f"  {task}:production is {task}@1\n")
    running.console.print(_table(scores))
    running.say(running.cli("lineage", "show", "support-triage@2"))
    newest = {task: versions[-1] for task, versions in TASKS.items()}
    better = all(
        _beats(scores[task][version], scores[task]["base"]) for task, version in newest.items()
    )
    return Verdict(f"each task's newest version beat the base on {NUM_ROWS} held-out rows", better)


def _push(running: Server, task: str, version: str) -> None:
    folder = HERE / task / version
    pushed = running.cli_json("adapter", "push", task, folder, "--base", BASE)["version"]
    megabytes = pushed["weights"]["size_bytes"] / 1e6
    running.console.print(
        f"  {task}@{pushed['number']}  {pushed['digest'][:19]}  {megabytes:.1f} MB  "
        f"rank {pushed['max_rank']} on {pushed['num_modules']} modules"
    )


def _measure(running: Server, task: str, *who: str) -> dict[str, Any]:
    suite = HERE / task / "suite.toml"
    recorded = running.cli_json("eval", "run", suite, *who, "--limit", str(NUM_ROWS))
    metric: dict[str, Any] = recorded["metrics"][0]
    running.console.print(f"  {metric['name']} {_shown(metric)}")
    return metric


def _shown(metric: dict[str, Any]) -> str:
    return f"{metric['value']:.2f} ({metric['low']:.2f}–{metric['high']:.2f})"


def _beats(metric: dict[str, Any], other: dict[str, Any]) -> bool:
    return bool(metric["low"] > other["high"])


def _table(scores: Scores) -> Table:
    title = f"right answers of {NUM_ROWS} held-out rows (95 % interval)"
    table = Table("task", *COLUMNS, box=box.SIMPLE_HEAD, pad_edge=False, title=title)
    for task, by_version in scores.items():
        shown = {version: _shown(metric) for version, metric in by_version.items()}
        table.add_row(task, *(shown.get(column, "") for column in COLUMNS))
    return table
