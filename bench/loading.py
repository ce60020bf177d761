"""What starting, loading and keeping cost: prints a table, and writes it to docs/performance.md.

python bench/loading.py
"""

from __future__ import annotations

import json
import queue
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import machine
import page
import torch
from arm_loradock import source_of
from engine import demo_base
from rich.console import Console
from rich.table import Table
from workload import Workload, write_adapters

from loradock.client import Client
from loradock.engine.engine import BuiltinEngine
from loradock.engine.loading import load_base
from loradock.engine.protocol import AdapterSource, Generate, RowEvent, Sampling

LORADOCK = Path(sys.executable).parent / "loradock"
NUM_LOADED = 1000
NUM_ASKED = 50
TINY = Workload(num_adapters=1, ranks=(1,))  # 1,000 of rank 16 would take 10 GB
USUAL = Workload(num_adapters=1)


@dataclass(frozen=True, slots=True)
class Bench:
    """An engine at work, and what it says."""

    engine: BuiltinEngine
    events: queue.SimpleQueue[Sequence[RowEvent]]

    def first_token_ms(self, adapter: str | None, num_asked: int = NUM_ASKED) -> float:
        """Give the median time from a request of 8 tokens to its answer's first token."""
        return statistics.median(
            1000 * _seconds(lambda i=i: self._ask(f"{adapter} {i}", adapter))  # type: ignore[misc]
            for i in range(num_asked)
        )

    def load_ms(self, source: AdapterSource) -> float:
        """Give the time that it takes to make a version resident."""
        return 1000 * _seconds(lambda: self.engine.make_resident(source))

    def _ask(self, row: str, adapter: str | None) -> None:
        prompt = tuple(range(1000, 1008))
        self.engine.submit(Generate(row, prompt, Sampling(max_tokens=1), adapter, salt=row))
        while not any(event.row == row and event.finish for event in self.events.get()):
            pass


def main() -> None:
    """Measure, print, write."""
    base = demo_base()
    figures: dict[str, float] = {"s from a server's start to its first answer": start_s(base)}
    loaded = load_base(base, "base", dtype="bfloat16")
    weights_mb = sum(p.nbytes for p in loaded.model.parameters()) / 2**20
    bench = Bench(BuiltinEngine(loaded, max_rows=16), queue.SimpleQueue())
    modules = list(loaded.info.modules)
    del loaded
    bench.engine.start(bench.events.put)
    with tempfile.TemporaryDirectory(prefix="loradock-bench-") as folder:
        sources = []
        for workload in (USUAL, TINY):
            write_adapters(base, Path(folder), workload)
            sources.append(source_of(Path(folder) / workload.adapters[0], modules))
        figures |= adapters_figures(bench, *sources)
    resident = sum(a.size_bytes for a in bench.engine.state().resident.values()) / 2**20
    known = weights_mb + resident + bench.engine.decoder.kv_bytes / 2**20
    figures["MB at most, without base, adapters and key/value memory"] = _peak_mb() - known
    bench.engine.close()
    _show(figures)
    rows = [[name, f"{figure:.2f}"] for name, figure in figures.items()]
    page.fill("loading", ("what", "figure"), rows)


def start_s(base: Path) -> float:
    """Start a server as a person would; give the time to the first answer through the SDK."""
    with tempfile.TemporaryDirectory(prefix="loradock-bench-") as folder:
        ready = Path(folder) / "ready.json"
        serve = [str(LORADOCK), "serve", "--model", str(base), "--port", "0"]
        begun = time.perf_counter()
        with subprocess.Popen(
            [*serve, "--data-dir", folder, "--ready-file", str(ready)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as server:
            assert server.stdout is not None
            server.stdout.readline()  # written once it serves
            with Client(json.loads(ready.read_text())["address"]) as client:
                client.generate("Hello!", base=True, max_tokens=1)
            seconds = time.perf_counter() - begun
            server.terminate()
    return seconds


def adapters_figures(bench: Bench, usual: AdapterSource, tiny: AdapterSource) -> dict[str, float]:
    """Load a usual adapter, then very many small ones."""
    figures = {"ms to make an adapter of rank 16 resident": bench.load_ms(usual)}
    bench.first_token_ms(None, num_asked=5)
    figures["ms to the first token, base"] = bench.first_token_ms(None)
    figures["ms to the first token, resident adapter"] = bench.first_token_ms(usual.digest)
    _touch(2 * NUM_LOADED * bench.engine.size_of(tiny.modules))  # others take of it too
    copies = [replace(tiny, digest=f"copy {i}") for i in range(NUM_LOADED)]
    times = [bench.load_ms(copy) for copy in copies]
    figures["ms to load one of the first 20"] = statistics.median(times[:20])
    figures["ms to load one of the last 20 of 1,000"] = statistics.median(times[-20:])
    figures["ms to the first token beside 1,000 others"] = bench.first_token_ms(usual.digest)
    return figures


def _touch(num_bytes: int) -> None:
    """Use memory once, and give it back: a virtual machine has its own behind it only then.

    Otherwise the last loads are slower than the first by what the host takes for each new page,
    in the system's time alone, whatever asks for them.
    """
    torch.ones(num_bytes, dtype=torch.uint8)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here on


def _seconds(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _show(figures: dict[str, float]) -> None:
    table = Table(title=f"starting, loading and keeping, on {machine.describe()}")
    table.add_column("what")
    table.add_column("figure", justify="right")
    for name, figure in figures.items():
        table.add_row(name, f"{figure:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
