"""S15, S16: health answers whatever the load; many loads and evictions leave nothing behind."""

import ctypes
import gc
import logging
import os
import statistics
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from served import running

from loradock.registry.names import parse_reference

FULL_CYCLES = pytest.param(10_000, marks=[pytest.mark.prove, pytest.mark.timeout(1200)])
NUM_VERSIONS = 4

SATURATE = """
import asyncio, sys
from loradock.client import AsyncClient

async def main():
    async with AsyncClient(sys.argv[1]) as client:
        async def ask():
            while True:
                await client.generate("hello " * 20, base=True, max_tokens=100, timeout_s=120)
                if not said:
                    said.append(print("saturated", flush=True))
        said = []
        await asyncio.gather(*(ask() for _ in range(32)))

asyncio.run(main())
"""


@contextmanager
def saturated(address):
    """Keep twice as many requests in flight as the batch has rows, from another process."""
    command = [sys.executable, "-c", SATURATE, address]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as callers:
        assert callers.stdout is not None
        try:
            assert callers.stdout.readline() == b"saturated\n"
            yield
        finally:
            callers.kill()


@pytest.mark.contract("S15")
@pytest.mark.parametrize(
    ("num_checks", "most_s"), [(50, 1.0), pytest.param(1000, 0.1, marks=pytest.mark.prove)]
)
def test_s15_health_answers_while_the_model_is_saturated(
    real_server, num_checks, most_s, record_property
):
    with saturated(real_server.address), grpc.insecure_channel(real_server.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        times = []
        for _ in range(num_checks):
            started = time.monotonic()
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=10)
            times.append(time.monotonic() - started)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
            time.sleep(0.02)
    p99 = statistics.quantiles(times, n=100)[98]
    record_property("p50_ms", round(statistics.median(times) * 1000, 1))
    record_property("p99_ms", round(p99 * 1000, 1))
    assert p99 < most_s


@pytest.mark.contract("S16")
@pytest.mark.parametrize("num_cycles", [300, FULL_CYCLES])
async def test_s16_many_loads_and_evictions_leave_nothing_behind(
    tiny_base, tiny_adapter, tmp_path, num_cycles, record_property, caplog
):
    caplog.set_level(logging.WARNING)
    async with running(tiny_base, tmp_path) as served:
        for seed in range(NUM_VERSIONS):
            await served.publish("triage", tiny_adapter(seed))
        size = await size_of(served, "triage@1")
    async with running(tiny_base, tmp_path, max_adapter_bytes=2 * size) as served:
        residencies = served.parts.inside.residencies
        await cycle(served, num_cycles // 3)
        before = footprint()
        await cycle(served, 2 * num_cycles)
        after = footprint()
        assert residencies.num_evictions >= num_cycles, "what is worth most may stay"
        assert len(served.parts.engine.state().resident) == 2
        assert residencies.check() == []
    grown = {name: after[name] - before[name] for name in before}
    for name, value in grown.items():
        record_property(f"{name}_grown", value)
    assert grown["threads"] < 20, "pools start theirs when they are first needed"
    assert grown["files"] < 20, "so do pools of connections"
    assert grown["objects"] < 1000, "fewer than one in ten of the full form's cycles"
    assert grown["memory_kib"] < 8 * 1024


async def cycle(served, num_cycles):
    """Bring versions in, for most of which another one has to go."""
    inside = served.parts.inside
    for turn in range(num_cycles):
        reference = parse_reference(f"triage@{1 + turn % NUM_VERSIONS}")
        version = (await inside.live.resolve("default", reference)).version
        await inside.residencies.bring_in(version)


async def size_of(served, reference):
    inside = served.parts.inside
    version = (await inside.live.resolve("default", parse_reference(reference))).version
    await inside.residencies.bring_in(version)
    return inside.residencies.place(version).size_bytes


def footprint():
    """Say what this process has taken by now."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what other tests of this process have freed may go now
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "memory_kib": pages * os.sysconf("SC_PAGE_SIZE") // 1024,
        "threads": threading.active_count(),
        "files": len(os.listdir("/proc/self/fd")),
        "objects": len(gc.get_objects()),
    }


async def test_accounts_that_do_not_add_up_are_logged_counted_and_told(
    tiny_base, tiny_adapter, tmp_path, caplog
):
    async with running(tiny_base, tmp_path) as served:
        await served.publish("triage", tiny_adapter(1))
        await served.ask("triage@1")
        inside = served.parts.inside
        inside.upkeep.check()
        assert (inside.upkeep.num_violations, inside.health.degraded("default")) == (0, [])
        (digest,) = inside.engine.state().resident
        inside.engine.release(digest)
        inside.upkeep.check()
        assert inside.upkeep.num_violations == 1
        (told,) = (await served.look()).degraded
        assert told.startswith("a fault of this program: the engine does not have")
        assert "the accounts of memory do not add up" in caplog.text
        inside.residencies.room.used_bytes += 1
        assert any("are not the budget" in line for line in inside.residencies.check())
