"""Loradock's engine against its peers.

    python bench/engine.py [--repeat 3] [--axes adapters,callers,…] [--without peft_switch,…]

Every cell is one workload. Its arms are processes of their own, run in turns, several times;
medians are quoted, with the lowest and the highest. Tokens of every arm's last run are compared
with PEFT's; if ours are wrong, nothing is printed. Peers that `bench/peers.py` installs are left
out where they are not installed. Writes the table of docs/performance.md, and engine.json and
engine.png in docs/bench.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import machine
import page
import peers
import targets
from plot import draw
from rich.console import Console
from rich.table import Table
from workload import Workload, write_adapters

HERE = Path(__file__).parent
OUT = HERE.parent / "docs" / "bench"
ARM_TIMEOUT_S = 600
MAX_GAP = {"float32": 1e-3, "bfloat16": 0.5, "int8": 4.0}  # of logits that range over some 30

CENTRE = Workload()
OURS = "loradock"
PEERS_OF_BASE = ("transformers", "openvino", "vllm", "llamacpp")
IN_FLOAT32 = ("transformers", "openvino", "llamacpp")
PEERS_OF_ADAPTERS = ("peft_mixed", "peft_switch", "openvino", "vllm", "llamacpp")
# With adapters these take minutes for as many as we are asked.
FEWER_REQUESTS = {"peft_switch": 8, "openvino": 16, "vllm": 16, "llamacpp": 16}

COLUMNS = (
    *("cell", "arm", "tokens/s", "lowest, highest", "CPU ms/token", "MB", "of the limit"),
    "PEFT's choice",
)

console = Console(width=None if sys.stdout.isatty() else 120)


@dataclass(frozen=True, slots=True)
class Cell:
    """One workload and who runs it."""

    axis: str
    name: str
    workload: Workload
    peers: tuple[str, ...] = ()


@dataclass(slots=True)
class Measured:
    """One arm's runs of one cell."""

    cell: Cell
    arm: str
    runs: list[dict[str, Any]] = field(default_factory=list)
    verdict: dict[str, float] | None = None

    def median(self, key: str) -> float:
        """Give the median over the runs."""
        return float(statistics.median(run[key] for run in self.runs))

    @property
    def spread(self) -> tuple[float, float]:
        """Lowest and highest throughput."""
        rates = [run["tokens_per_s"] for run in self.runs]
        return min(rates), max(rates)


def cells() -> list[Cell]:
    """One centre, and one axis varied at a time."""

    def cell(
        axis: str, name: str, peers: tuple[str, ...] = (), **changes: int | str | tuple[int, ...]
    ) -> Cell:
        return Cell(axis, name, replace(CENTRE, **changes), peers)  # type: ignore[arg-type]

    return [
        cell("adapters", "no adapter", PEERS_OF_BASE, num_adapters=0),
        cell("adapters", "1 adapter", num_adapters=1),
        cell("adapters", "4 adapters", num_adapters=4),
        cell("adapters", "16 adapters (centre)", PEERS_OF_ADAPTERS),
        cell("adapters", "64 adapters", num_adapters=64),
        cell("ranks", "rank 8", ranks=(8,)),
        cell("ranks", "rank 64", ranks=(64,)),
        cell("ranks", "ranks 4 to 64, mixed", ranks=(4, 8, 16, 32, 64)),
        cell("popularity", "uniform", popularity="uniform"),
        cell("popularity", "all different", popularity="distinct"),
        cell("popularity", "4 different", popularity="distinct", num_adapters=4),
        cell("popularity", "8 different", popularity="distinct", num_adapters=8),
        cell("callers", "1 caller, no adapter", concurrency=1, num_adapters=0, num_requests=16),
        cell("callers", "1 caller, 1 adapter", concurrency=1, num_adapters=1, num_requests=16),
        cell("callers", "4 callers", concurrency=4),
        cell("callers", "64 callers", concurrency=64, num_requests=128),
        cell("precision", "float32, no adapter", IN_FLOAT32, dtype="float32", num_adapters=0),
        cell("precision", "float32, 16 adapters", ("peft_mixed",), dtype="float32"),
        cell("precision", "int8, no adapter", dtype="int8", num_adapters=0),
        cell("precision", "int8, 16 adapters", dtype="int8"),
    ]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--base", type=Path, help="a folder; by default the demo's base")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument(
        "--repeat-peers", type=int, help="rounds in which peers run; by default all"
    )
    parser.add_argument("--axes", help="the axes to run, with commas; by default all")
    parser.add_argument("--without", default="", help="peers to leave out, with commas")
    given = parser.parse_args()
    base = given.base or demo_base()
    axes = given.axes.split(",") if given.axes else None
    peers_there = _peers_there(given.without.split(","))
    chosen = [
        replace(cell, peers=tuple(p for p in cell.peers if p in peers_there))
        for cell in cells()
        if axes is None or cell.axis in axes
    ]
    limits = machine.measure()
    with tempfile.TemporaryDirectory(prefix="loradock-bench-") as adapters:
        folder = Path(adapters)
        rounds = given.repeat, given.repeat_peers or given.repeat
        measured = [m for cell in chosen for m in _run_cell(cell, base, folder, rounds)]
    reached = list(_reached(measured, limits))
    _show(measured, limits, reached)
    page.fill("engine", COLUMNS, [list(_row(m, limits)) for m in measured])
    page.fill("targets", targets.HEAD, [target.row() for target in reached])
    _write(measured, limits)


def _peers_there(unwanted: Sequence[str]) -> set[str]:
    """Give the peers that are installed and wanted; say which are not installed."""
    wanted = {peer for peer in (*PEERS_OF_BASE, *PEERS_OF_ADAPTERS) if peer not in unwanted}
    there = {peer for peer in wanted if peers.python_of(peer)}
    for peer in sorted(wanted - there):
        console.print(f"{peer} is not installed: python bench/peers.py {peer}")
    return there


def _run_cell(cell: Cell, base: Path, adapters: Path, rounds: tuple[int, int]) -> list[Measured]:
    """Measure a cell, we in the first number of rounds, peers in the second."""
    write_adapters(base, adapters, cell.workload)
    arms = [Measured(cell, arm) for arm in (OURS, *cell.peers)]
    for round_ in range(max(rounds)):
        for measured in (a for a in arms if round_ < rounds[a.arm != OURS]):
            console.print(f"[dim]{cell.name}: {measured.arm}, round {round_ + 1}[/]")
            workload = cell.workload
            if measured.arm in FEWER_REQUESTS and workload.num_adapters:
                workload = replace(workload, num_requests=FEWER_REQUESTS[measured.arm])
            measured.runs.append(_run(measured.arm, base, adapters, workload))
    for measured in arms:
        verdict = _judge(base, adapters, cell.workload, measured.runs[-1]["outputs"])
        if measured.arm == OURS and verdict["worst_gap"] > MAX_GAP[cell.workload.dtype]:
            raise SystemExit(f"our tokens are wrong: {verdict} for {cell.workload}")
        measured.verdict = verdict
    return arms


def _run(arm: str, base: Path, adapters: Path, workload: Workload) -> dict[str, Any]:
    program = HERE / f"arm_{arm}.py"
    command = [str(peers.python_of(arm)), str(program), str(base), str(adapters)]
    done = subprocess.run(
        [*command, workload.to_json()],
        capture_output=True,
        text=True,
        timeout=ARM_TIMEOUT_S,
        env=_environment(),
    )
    if done.returncode:
        raise SystemExit(f"{arm} failed:\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _judge(
    base: Path, adapters: Path, workload: Workload, outputs: list[list[int]]
) -> dict[str, float]:
    """Compare with PEFT: a figure of wrong tokens is no figure."""
    program = HERE / "check.py"
    command = [sys.executable, str(program), str(base), str(adapters), workload.to_json()]
    done = subprocess.run(
        command,
        input=json.dumps(outputs),
        capture_output=True,
        text=True,
        timeout=ARM_TIMEOUT_S,
        env=_environment(),
    )
    if done.returncode:
        raise SystemExit(f"the check failed:\n{done.stderr[-3000:]}")
    verdict: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return verdict


def _environment() -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def demo_base() -> Path:
    """Give the demo's base, fetched if need be."""
    sys.path.insert(0, str(HERE.parent / "examples"))
    from fetch_base import fetch_base

    return fetch_base()


def _reached(measured: Sequence[Measured], limits: machine.Limits) -> Iterator[targets.Target]:
    rates = {(m.cell.name, m.arm): m.median("tokens_per_s") for m in measured}
    shares = {m.cell.name: _share(m, limits) for m in measured if m.arm == OURS}
    return targets.targets(rates, shares)


def _show(
    measured: Sequence[Measured], limits: machine.Limits, reached: Sequence[targets.Target]
) -> None:
    table = Table(title=f"output tokens/s on {machine.describe()}")
    for title in COLUMNS:
        table.add_column(title, justify="left" if title in COLUMNS[:2] else "right")
    for m in measured:
        table.add_row(*_row(m, limits))
    console.print(table)
    ratios = Table(*targets.HEAD, title="ratios within this run")
    for target in reached:
        ratios.add_row(*target.row())
    console.print(ratios)


def _row(m: Measured, limits: machine.Limits) -> Iterator[str]:
    low, high = m.spread
    yield m.cell.name
    yield m.arm
    yield f"{m.median('tokens_per_s'):.0f}"
    yield f"{low:.0f}, {high:.0f}"
    yield f"{1000 * m.median('cpu_s_per_token'):.2f}"
    yield f"{m.median('peak_memory_mb'):.0f}"
    yield "" if m.arm != OURS else f"{_share(m, limits):.2f}"
    yield "" if m.verdict is None else f"{m.verdict['agreement']:.3f}"


def _share(m: Measured, limits: machine.Limits) -> float:
    """Give the share of the throughput that bytes and operations moved would allow."""
    facts = m.runs[-1]["facts"]
    most = limits.tokens_per_s(
        m.cell.workload.dtype, facts["multiply_adds_per_token"], facts["weight_bytes_per_token"]
    )
    return m.median("tokens_per_s") / float(most)


def _write(measured: Sequence[Measured], limits: machine.Limits) -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    record = {
        "date": datetime.date.today().isoformat(),
        "machine": machine.describe(),
        "limits": asdict(limits),
        "versions": {p: importlib.metadata.version(p) for p in ("torch", "transformers", "peft")},
        "cells": [
            {
                "axis": m.cell.axis,
                "cell": m.cell.name,
                "arm": m.arm,
                "workload": asdict(m.cell.workload),
                "tokens_per_s": [round(run["tokens_per_s"], 1) for run in m.runs],
                "cpu_s_per_token": m.median("cpu_s_per_token"),
                "peak_memory_mb": m.median("peak_memory_mb"),
                "share_of_limit": _share(m, limits) if m.arm == OURS else None,
                "facts": m.runs[-1]["facts"],
                "check": m.verdict,
            }
            for m in measured
        ],
    }
    (OUT / "engine.json").write_text(json.dumps(record, indent=1) + "\n")
    draw(record, OUT / "engine.png")


if __name__ == "__main__":
    main()
