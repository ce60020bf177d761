"""The half of a server that answers: engine, live table, residencies, and who follows changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from loradock.engine.protocol import Engine
from loradock.registry.errors import AlreadyExists, NotFound
from loradock.registry.names import Reference
from loradock.registry.registry import Registry
from loradock.registry.resources import Version
from loradock.server.aliases.arm_traffic import ArmTraffic
from loradock.server.aliases.follow import Follower
from loradock.server.aliases.live import Live
from loradock.server.aliases.override import Overrides
from loradock.server.aliases.override_log import OverrideLog
from loradock.server.answering.admission import MEMORIES, Admission
from loradock.server.answering.answer import Answering
from loradock.server.answering.bridge import Bridge
from loradock.server.answering.prompts import Prompts
from loradock.server.answering.shadows import Shadows
from loradock.server.config import Config
from loradock.server.errors import StartRefused
from loradock.server.heartbeat import Pulse
from loradock.server.identity import Identity, base_model_of
from loradock.server.inside import Inside
from loradock.server.loading import load
from loradock.server.residency.disk_cache import DiskCache
from loradock.server.residency.pins import Pin, Pins
from loradock.server.residency.residencies import RESIDENT, Residencies
from loradock.server.services.inference_service import InferenceService
from loradock.server.telemetry.health import Health
from loradock.server.telemetry.metrics import Metrics
from loradock.server.threads import Threads
from loradock.server.upkeep import Upkeep, WatchedStore

NUM_LOAD_THREADS = 4
NUM_TEXT_THREADS = 2  # of their own, so that a catalog that hangs stops no prompt


@dataclass(slots=True)
class Inference:
    """The parts of an inference server."""

    identity: Identity
    engine: Engine
    bridge: Bridge
    follower: Follower
    inside: Inside
    service: InferenceService
    shadows: Shadows
    own_threads: Sequence[Threads]
    registry: Registry

    async def go(self) -> None:
        """Start the engine's steps, and bring what was left open to its end."""
        self.bridge.start()
        await self.follower.start()
        await self.inside.overrides.start()
        loop = asyncio.get_running_loop()
        self.registry.on_commit(lambda: _nudge(loop, self.follower.nudge))

    def follow(self, address: str) -> list[asyncio.Task[None]]:
        """Follow the catalog, and tell it of this server, from now on."""
        self.identity.address = address
        return [
            asyncio.create_task(self.follower.run()),
            asyncio.create_task(self.inside.pulse.run()),
            asyncio.create_task(self.inside.upkeep.run()),
            asyncio.create_task(self.shadows.run()),
            asyncio.create_task(self.inside.pins.keep(self._bring_in)),
        ]

    async def _bring_in(self, version: Version) -> None:
        """Make what is pinned resident; what is so already was not asked for by that."""
        self.inside.check_base(version)
        if self.inside.residencies.place(version).state != RESIDENT:
            await self.inside.residencies.bring_in(version)

    async def close(self) -> None:
        """Stop the engine's steps, and tell the catalog that this server is gone."""
        self.bridge.close()
        await asyncio.to_thread(self.engine.close)
        await self.inside.pulse.forget()
        for threads in self.own_threads:
            await threads.close()


async def start_inference(
    config: Config,
    path: Path,
    registry: Registry,
    threads: Threads,
    server_id: str,
    say: Callable[[str], None],
    metrics: Metrics,
) -> Inference:
    """Load the base at `path`, agree with the catalog on it, and put the parts together."""
    say(f"loading {config.model} …")
    engine, tokenizer = await asyncio.to_thread(load, config, path)
    identity = Identity(server_id, engine.base)
    await threads.run(agree_on_base, config, registry, identity)
    bridge = Bridge(engine, max_waiting_tokens=config.stream_buffer_tokens)
    admission = Admission(
        max_requests=config.max_running_rows + config.max_queue,
        max_per_project=config.max_requests_per_project,
        max_tokens=MEMORIES * engine.state().num_memory_tokens,
    )
    live = Live(registry.reader, threads)
    pins = Pins(live, [_pin(config, reference) for reference in config.pinned_references])
    store = WatchedStore(registry.blobs)
    fetch_threads = Threads("fetch", config.max_downloads)
    load_threads = Threads("load", NUM_LOAD_THREADS)
    text_threads = Threads("text", NUM_TEXT_THREADS)
    residencies = Residencies(
        engine,
        DiskCache(store.fetch, config.cache_folder, config.cache_bytes, fetch_threads),
        load_threads,
        budget_bytes=config.max_adapter_bytes,
        max_waiting=config.max_queue,
        is_live=live.is_live,
        is_pinned=pins.is_pinned,
    )
    upkeep = Upkeep(residencies, store)
    follower = Follower(
        registry.reader,
        live,
        residencies,
        threads,
        interval_s=config.follow_interval_s,
        rollback_window_s=config.rollback_window_s,
    )
    arm_traffic = ArmTraffic()
    pulse = Pulse(
        identity,
        live,
        residencies,
        follower,
        arm_traffic,
        registry,
        threads,
        interval_s=config.heartbeat_interval_s,
    )
    decisions = OverrideLog(config.folder / "overrides.jsonl")
    override_threads = Threads("override", 1)
    overrides = Overrides(
        registry, live, residencies, follower, threads, override_threads, decisions
    )
    follower.on_applied = pulse.nudge
    follower.on_catalog_answers = overrides.catalog_answers
    answering = Answering(
        identity,
        live,
        residencies,
        bridge,
        admission,
        tokenizer,
        default_max_tokens=config.default_max_tokens,
        metrics=metrics,
        arm_traffic=arm_traffic,
        repeats_s=config.max_deadline_s,
    )
    max_rows = config.max_running_rows
    shadows = Shadows(engine, answering, arm_traffic, max_rows=max_rows)
    service = InferenceService(
        identity,
        answering,
        shadows,
        Prompts(tokenizer, text_threads, context_length=engine.base.context_length),
        max_text_bytes=config.max_text_bytes,
    )
    inside = Inside(
        engine,
        live,
        residencies,
        pins,
        pulse,
        overrides,
        upkeep,
        Health(live, residencies, pins, follower.catalog, store.outage, upkeep),
        answering.check_base,
    )
    own_threads = (load_threads, text_threads, fetch_threads, override_threads)
    return Inference(
        identity, engine, bridge, follower, inside, service, shadows, own_threads, registry
    )


def _pin(config: Config, reference: Reference) -> Pin:
    return Pin(reference.project or config.project, reference)


def agree_on_base(config: Config, registry: Registry, identity: Identity) -> None:
    """Register the base, or check that the catalog means the same by its name."""
    base = base_model_of(identity.base)
    try:
        if config.has_role("registry"):
            registry.bases.register(base, by=f"server {identity.server_id}")
            return
        known = registry.bases.get(base.name)
    except AlreadyExists as error:
        if error.name != base.name:
            raise StartRefused(
                f"the catalog knows the base of --model by another name, {error.name!r}, under "
                f"which its adapters are: start with --model-name {error.name}"
            ) from error
        raise StartRefused(
            f"the catalog knows another base by the name {base.name!r}: its digests are not those "
            "of --model; give it another --model-name"
        ) from error
    except NotFound as error:
        raise StartRefused(
            f"the catalog knows no base {base.name!r}: run `loradock base register` first"
        ) from error
    if known.digests != base.digests:
        raise StartRefused(
            f"the catalog's base {base.name!r} is not the one of --model: "
            f"{known.digests} against {base.digests}"
        )


def _nudge(loop: asyncio.AbstractEventLoop, nudge: Callable[[], None]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(nudge)
