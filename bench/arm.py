"""What all arms share: an arm is a process that is given a workload and prints one JSON line.

    python bench/arm_<name>.py BASE ADAPTERS WORKLOAD

An arm warms up on some of the requests, then tells what all of them took.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from workload import Request, Workload

Outputs = list[list[int]]  # of each request, in their order


@dataclass(frozen=True, slots=True)
class Job:
    """What an arm is to run."""

    base: Path
    adapters: Path
    workload: Workload
    requests: Sequence[Request]


Run = Callable[[Sequence[Request]], Outputs]
WARM_UP = 4  # requests


def run_arm(prepare: Callable[[Job], Run]) -> None:
    """Prepare, warm up, measure, print."""
    base, adapters, text = sys.argv[1:4]
    workload = Workload.from_json(text)
    vocab_size = json.loads((Path(base) / "config.json").read_text())["vocab_size"]
    job = Job(Path(base), Path(adapters), workload, workload.requests(vocab_size))
    run = prepare(job)
    run(job.requests[:WARM_UP])
    print(json.dumps(_measured(run, job.requests)))


def _measured(run: Run, requests: Sequence[Request]) -> dict[str, object]:
    begun, cpu = time.perf_counter(), _cpu_seconds()
    outputs = run(requests)
    seconds, cpu_seconds = time.perf_counter() - begun, _cpu_seconds() - cpu
    num_tokens = sum(map(len, outputs))
    return {
        "tokens_per_s": num_tokens / seconds,
        "cpu_s_per_token": cpu_seconds / num_tokens,
        "peak_memory_mb": sum(map(_peak_mb, _processes())),
        "outputs": outputs,
        "facts": getattr(run, "facts", {}),
    }


def _processes() -> list[psutil.Process]:
    """Give this process and its children: some peers compute in processes of their own."""
    this = psutil.Process()
    return [this, *this.children(recursive=True)]


def _cpu_seconds() -> float:
    times = [process.cpu_times() for process in _processes()]
    return float(sum(time.user + time.system for time in times))


def _peak_mb(process: psutil.Process) -> float:
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    peak = next((line for line in lines if line.startswith("VmHWM")), "VmHWM: 0 kB")
    return int(peak.split()[1]) / 1024
