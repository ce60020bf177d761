"""How long running answers stand still while a long prompt is read, by how much a step reads of it.

python bench/latency.py: prints a table, and writes docs/bench/latency.json and docs/performance.md
"""

from __future__ import annotations

import argparse
import json
import queue
import statistics
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import machine
import page
from engine import demo_base
from rich.console import Console
from rich.table import Table

from loradock.engine.engine import DEFAULT_PREFILL_TOKENS, BuiltinEngine
from loradock.engine.loading import load_base
from loradock.engine.protocol import Generate, RowEvent, Sampling

RESULT = page.ROOT / "docs" / "bench" / "latency.json"
NUM_ROWS = 8
PROMPT_TOKENS, LONG_TOKENS = 64, 1500
MAX_TOKENS = 400  # more than the rows come to while the long prompt is read
WARM_TOKENS = 16  # of each row, before the long prompt comes
NO_CAP = LONG_TOKENS + NUM_ROWS
CAPS = (32, 64, 128, 256, NO_CAP)
HEAD = (
    "prompt tokens a step reads beside answers",
    "largest gap, ms",
    "median gap, ms",
    "long prompt's first token, s",
    "answers' tokens/s meanwhile",
)


@dataclass(frozen=True, slots=True)
class Reading:
    """What one arrival of the long prompt did to the rows that were running."""

    cap: int
    largest_gap_ms: float
    median_gap_ms: float
    first_token_s: float
    tokens_per_s: float  # of all rows, while the prompt was read


class Bench:
    """An engine, and when it said what."""

    def __init__(self, base: Path, cap: int, dtype: str) -> None:
        self._events: queue.SimpleQueue[tuple[float, Sequence[RowEvent]]] = queue.SimpleQueue()
        loaded = load_base(base, "base", dtype=dtype)
        rows = NUM_ROWS + 1
        self._vocab_size = loaded.info.vocab_size
        self._engine = BuiltinEngine(
            loaded, max_rows=rows, step_tokens=NO_CAP + rows, prefill_tokens=cap
        )
        self._cap = cap
        self._engine.start(lambda events: self._events.put((time.perf_counter(), events)))

    def close(self) -> None:
        """Stop the engine."""
        self._engine.close()

    def read(self, repeat: int) -> Reading:
        """Let rows run, let the long prompt come, and see how they fare until its first token."""
        rows = [f"{repeat}:{number}" for number in range(NUM_ROWS)]
        for row in rows:
            self._ask(row, PROMPT_TOKENS, MAX_TOKENS)
        counts = dict.fromkeys(rows, 0)
        while min(counts.values()) < WARM_TOKENS:
            for event in self._events.get()[1]:
                counts[event.row] += len(event.tokens)
        begun = time.perf_counter()
        self._ask(f"{repeat}:long", LONG_TOKENS, 1)
        moments = dict.fromkeys(rows, begun)
        gaps: list[float] = []
        while True:
            at, events = self._events.get()
            for event in events:
                if event.tokens and event.row in moments:
                    gaps.append(at - moments[event.row])
                    moments[event.row] = at
            if any(event.finish and event.row not in moments for event in events):
                break
        self._clear(rows)
        return Reading(
            self._cap,
            1000 * max(gaps),
            1000 * statistics.median(gaps),
            at - begun,
            len(gaps) / (at - begun),
        )

    def _ask(self, row: str, num_prompt: int, max_tokens: int) -> None:
        first = zlib.crc32(row.encode())  # no two begin alike
        prompt = tuple((first + 7919 * place) % self._vocab_size for place in range(num_prompt))
        how = Sampling(max_tokens, ignore_eos=True)
        self._engine.submit(Generate(row, prompt, how, salt=row))

    def _clear(self, rows: Sequence[str]) -> None:
        left = set(rows)
        for row in rows:
            self._engine.cancel(row)
        while left:
            left -= {event.row for event in self._events.get()[1] if event.finish}


def main() -> None:
    """Measure each cap in turn, again and again; print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--base", type=Path, help="a folder; by default the demo's base")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="once, and write nothing")
    given = parser.parse_args()
    base = given.base or demo_base()
    readings = list(_interleaved(base, given.dtype, 1 if given.smoke else given.repeat))
    medians = [_median([r for r in readings if r.cap == cap]) for cap in CAPS]
    table = Table(*HEAD, title=f"{NUM_ROWS} answers, a prompt of {LONG_TOKENS} tokens comes")
    for reading in medians:
        table.add_row(*_row(reading))
    Console().print(table)
    if not given.smoke:
        told = {"machine": machine.describe(), "readings": [asdict(r) for r in readings]}
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps(told, indent=1) + "\n")
        page.fill("latency", HEAD, [_row(reading) for reading in medians])


def _interleaved(base: Path, dtype: str, repeats: int) -> Iterator[Reading]:
    for repeat in range(repeats):
        for cap in CAPS:
            bench = Bench(base, cap, dtype)
            bench.read(-1 - repeat)  # memory is touched for the first time
            yield bench.read(repeat)
            bench.close()


def _median(readings: Sequence[Reading]) -> Reading:
    def middle(name: str) -> float:
        return statistics.median(float(getattr(reading, name)) for reading in readings)

    names = ("largest_gap_ms", "median_gap_ms", "first_token_s", "tokens_per_s")
    return Reading(readings[0].cap, *map(middle, names))


def _row(reading: Reading) -> list[str]:
    cap = "all at once" if reading.cap == NO_CAP else str(reading.cap)
    return [
        f"{cap} (default)" if reading.cap == DEFAULT_PREFILL_TOKENS else cap,
        f"{reading.largest_gap_ms:.0f}",
        f"{reading.median_gap_ms:.0f}",
        f"{reading.first_token_s:.2f}",
        f"{reading.tokens_per_s:.0f}",
    ]


if __name__ == "__main__":
    main()
