"""What a server is at the moment, as figures: read when somebody asks for them, not kept."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from importlib.metadata import version as release_of

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    SummaryMetricFamily,
)
from prometheus_client.metrics_core import Metric

from loradock.engine.protocol import STEP_BOUNDS_S, EngineState
from loradock.server.answering.inference import Inference
from loradock.server.gate import Gate
from loradock.server.residency.residencies import (
    ABSENT,
    CACHED,
    DRAINING,
    FAILED,
    LOADING,
    RESIDENT,
)

MAX_DIVERGENT = 100  # aliases named; how many there are in all is a figure of its own


def metrics_of(gate: Gate, inference: Inference | None) -> Iterator[Metric]:
    """Give a server's state. From the event loop's thread."""
    yield _gauge("calls_inside", "Calls that are being answered.", gate.num_inside)
    yield _gauge("draining", "Whether the server lets nobody in any more.", gate.is_draining)
    yield _gauge("threads", "Python's threads.", threading.active_count())
    if inference is None:
        return
    yield from _of_engine(inference.engine.state())
    yield from _of_residencies(inference)
    yield from _of_aliases(inference)
    info = InfoMetricFamily("loradock_server", "What runs here.")
    base = inference.engine.base
    info.add_metric(
        (),
        {
            "release": release_of("loradock"),
            "base": base.name,
            "base_weights": base.fingerprint.weights,
            "engine_profile": base.profile,
        },
    )
    yield info


def _of_engine(state: EngineState) -> Iterator[Metric]:
    yield _gauge("running_rows", "Sequences in the running batch.", state.num_running)
    yield _gauge("waiting_rows", "Sequences that wait for a place in it.", state.num_waiting)
    used = state.num_blocks - state.num_free_blocks - state.num_cached_blocks
    blocks = {"used": used, "cached": state.num_cached_blocks, "free": state.num_free_blocks}
    yield _gauges("kv_blocks", "Blocks of key/value memory.", "state", blocks.items())
    yield _count("steps", "Steps of the engine.", state.num_steps)
    yield _count("step_tokens", "Tokens that steps computed.", state.num_step_tokens)
    yield _count("preemptions", "Rows put back, to be computed again.", state.num_preemptions)
    spread = HistogramMetricFamily("loradock_step_seconds", "What a step took.")
    spread.add_metric((), _buckets(state), state.step_times.total_s)
    yield spread


def _buckets(state: EngineState) -> list[tuple[str, float]]:
    so_far, buckets = 0, []
    bounds = [*map(str, STEP_BOUNDS_S), "+Inf"]
    for bound, count in zip(bounds, state.step_times.counts, strict=True):
        so_far += count
        buckets.append((bound, float(so_far)))
    return buckets


def _of_residencies(inference: Inference) -> Iterator[Metric]:
    residencies = inference.inside.residencies
    places = residencies.places()
    states = Counter({state: 0 for state in (ABSENT, CACHED, LOADING, RESIDENT, DRAINING, FAILED)})
    states.update(residencies.state_of(place) for place in places)
    yield _gauges("versions", "Versions by their place.", "state", states.items())
    yield _gauge("leases", "Holds of requests on versions.", sum(p.num_leases for p in places))
    room, cache = residencies.room, residencies.cache
    used = {"memory": room.budget_bytes - room.free_bytes, "disk": cache.used_bytes}
    budgets = {"memory": room.budget_bytes, "disk": cache.budget_bytes}
    yield _gauges("tier_bytes", "Bytes that versions take.", "tier", used.items())
    yield _gauges("tier_budget_bytes", "Bytes that they may take.", "tier", budgets.items())
    loads = {"memory": residencies.num_loads, "disk": cache.num_downloads}
    yield _counts("loads", "Versions that were brought in.", "tier", loads.items())
    evicted = {"memory": residencies.num_evictions, "disk": cache.num_removals}
    yield _counts("evictions", "Versions that made room for others.", "tier", evicted.items())
    yield _count("failed_loads", "Versions that could not be.", residencies.num_failed_loads)
    phases = SummaryMetricFamily(
        "loradock_load_seconds", "What bringing versions in has taken.", labels=("phase",)
    )
    for phase, seconds in residencies.load_seconds.items():
        phases.add_metric((phase,), loads["memory"], seconds)
    yield phases


def _of_aliases(inference: Inference) -> Iterator[Metric]:
    divergent = [key for key, live in inference.inside.live.table.items() if live.is_divergent]
    yield _gauge("divergent_aliases", "Aliases answered otherwise than wanted.", len(divergent))
    named = GaugeMetricFamily(
        "loradock_alias_divergent",
        "1 for each alias that is answered otherwise than the catalog wants.",
        labels=("project", "adapter", "alias"),
    )
    for key in divergent[:MAX_DIVERGENT]:
        named.add_metric(key, 1)
    yield named
    yield _gauge("catalog_up", "Whether the catalog answers.", inference.follower.catalog_answers)
    applied = inference.follower.applied_sequence
    yield _gauge("applied_sequence", "The last change of the catalog that is live here.", applied)


def _gauge(name: str, help: str, value: float) -> Metric:
    return GaugeMetricFamily(f"loradock_{name}", help, value=value)


def _count(name: str, help: str, value: float) -> Metric:
    return CounterMetricFamily(f"loradock_{name}", help, value=value)


def _gauges(name: str, help: str, label: str, values: Iterable[tuple[str, float]]) -> Metric:
    family = GaugeMetricFamily(f"loradock_{name}", help, labels=(label,))
    for key, value in values:
        family.add_metric((key,), value)
    return family


def _counts(name: str, help: str, label: str, values: Iterable[tuple[str, float]]) -> Metric:
    family = CounterMetricFamily(f"loradock_{name}", help, labels=(label,))
    for key, value in values:
        family.add_metric((key,), value)
    return family
