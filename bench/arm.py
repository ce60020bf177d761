"""What all arms share: an arm is a process that is given a workload and prints one JSON line.

    python bench/arm_<name>.py BASE ADAPTERS WORKLOAD

An arm runs the workload twice, the first time to warm up, and tells only of the second.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from workload import Request, Workload

Outputs = list[list[int]]  # of each request, in their order


@dataclass(frozen=True, slots=True)
class Job:
    """What an arm is to run."""

    base: Path
    adapters: Path
    workload: Workload
    requests: Sequence[Request]


@dataclass(slots=True)
class Result:
    """What an arm has measured."""

    tokens_per_s: float
    cpu_s_per_token: float
    peak_memory_mb: float
    outputs: Outputs
    facts: dict[str, float] = field(default_factory=dict)


def run_arm(prepare: Callable[[Job], Callable[[], Outputs]]) -> None:
    """Prepare, warm up, measure, print."""
    base, adapters, text = sys.argv[1:4]
    workload = Workload.from_json(text)
    vocab_size = json.loads((Path(base) / "config.json").read_text())["vocab_size"]
    job = Job(Path(base), Path(adapters), workload, workload.requests(vocab_size))
    run = prepare(job)
    run()
    print(json.dumps(_measured(run)))


def _measured(run: Callable[[], Outputs]) -> dict[str, object]:
    begun, cpu = time.perf_counter(), time.process_time()
    outputs = run()
    seconds, cpu_seconds = time.perf_counter() - begun, time.process_time() - cpu
    num_tokens = sum(map(len, outputs))
    return {
        "tokens_per_s": num_tokens / seconds,
        "cpu_s_per_token": cpu_seconds / num_tokens,
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "outputs": outputs,
        "facts": getattr(run, "facts", {}),
    }
