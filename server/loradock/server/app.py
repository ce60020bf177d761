"""Puts a server together from its configuration, starts it, and takes it down in order."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import uuid
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from loradock.registry.limits import Limits
from loradock.registry.registry import Registry, open_registry
from loradock.server.aliases.follow_wait import FollowWait
from loradock.server.aliases.rollout_controller import RolloutController
from loradock.server.answering.inference import Inference, start_inference
from loradock.server.blobs import BlobTransfers
from loradock.server.callers import read_callers
from loradock.server.config import Config
from loradock.server.doctor import Doctor, tell_store
from loradock.server.errors import NoEngine, NoRegistry
from loradock.server.gate import Gate
from loradock.server.listen import Listener, Register, refuse_taken_port
from loradock.server.loading import find
from loradock.server.services.admin_service import AdminService
from loradock.server.services.alias_service import AliasService
from loradock.server.services.evaluation_service import EvaluationService
from loradock.server.services.interceptors import CallInterceptor
from loradock.server.services.principal import Authenticator, Caller
from loradock.server.services.registry_service import RegistryService
from loradock.server.services.rollout_service import RolloutService
from loradock.server.services.server_service import ServerService, limits_of
from loradock.server.telemetry.metrics import Metrics
from loradock.server.telemetry.metrics_page import MetricsPage
from loradock.server.telemetry.metrics_state import metrics_of
from loradock.server.threads import Threads
from loradock.server.traffic import Traffic
from loradock.v1 import (
    admin_service_pb2_grpc,
    alias_service_pb2_grpc,
    evaluation_service_pb2_grpc,
    inference_service_pb2_grpc,
    registry_service_pb2_grpc,
    rollout_service_pb2_grpc,
    server_service_pb2_grpc,
)

log = logging.getLogger(__name__)

NUM_CATALOG_THREADS = 16
CLOSE_GRACE_S = 1.0  # for what answers after the drain: health watchers and the last messages

REGISTRY_SERVICES = tuple(
    f"loradock.v1.{noun}Service" for noun in ("Registry", "Admin", "Alias", "Rollout", "Evaluation")
)

Say = Callable[[str], None]


@dataclass(slots=True)
class Server:
    """A running server. Belongs to the event loop that started it."""

    config: Config
    address: str
    registry: Registry
    inference: Inference | None
    gate: Gate
    listener: Listener
    traffic: Traffic
    threads: Threads
    metrics_page: MetricsPage | None = None
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _stopping: asyncio.Task[None] | None = None

    async def stop(self) -> None:
        """Go as SIGTERM asks: say so, let nobody in, let everybody end, and only then close.

        Idempotent: who asks again waits for the same end.
        """
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop())
        await asyncio.shield(self._stopping)

    def engine_stopped(self) -> None:
        """Tell health that nothing can be answered any more, for good."""
        self.tasks.append(asyncio.create_task(self.listener.say_not_serving()))

    async def _stop(self) -> None:
        finished = await self.traffic.end(self.config.drain_grace_s)
        await self.listener.close(CLOSE_GRACE_S if finished else 0.0)
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        if self.metrics_page is not None:
            await self.metrics_page.close()
        if self.inference is not None:
            await self.inference.close()
        await self.threads.close()
        await asyncio.to_thread(self.registry.close)


async def start_server(
    config: Config,
    say: Say = lambda line: None,
    *,
    authenticator: Authenticator | None = None,
) -> Server:
    """Start everything; what can't be served as configured raises StartRefused.

    Who calls is said by the configured token and callers, unless an authenticator is given.
    """
    config.refuse_open_door()
    authenticator = authenticator or _authenticator(config)
    await refuse_taken_port(config.host, config.port)
    path = None
    if config.has_role("inference"):  # looked for first: a mistyped base begins no catalog
        path = await asyncio.to_thread(find, config)
    config.make_folders()
    async with AsyncExitStack() as undo:
        say("opening the registry …")
        registry = await asyncio.to_thread(
            partial(
                open_registry,
                config.catalog_url,
                config.blobs_url,
                migrate=config.is_embedded,
                spool=config.spool_folder,
            )
        )
        undo.callback(registry.close)
        threads = Threads("catalog", NUM_CATALOG_THREADS)
        undo.push_async_callback(threads.close)
        metrics = Metrics(max_versions=config.metrics_versions)
        inference = None
        if path is not None:
            inference = await start_inference(
                config, path, registry, threads, _server_id(), say, metrics
            )
            undo.push_async_callback(inference.close)
            await inference.go()
        gate = Gate()
        page = None
        if config.metrics_address:
            state = partial(metrics_of, gate, inference)
            page = MetricsPage(config.metrics_address, metrics.registry, state)
            undo.push_async_callback(page.close)
        interceptor = CallInterceptor(
            authenticator,
            gate,
            max_deadline_s=config.max_deadline_s,
            max_message_bytes=config.max_message_bytes,
            facts={} if inference is None else inference.identity.facts,
            metrics=metrics,
            absent=_absent(config),
        )
        server = await _listen(config, gate, interceptor, registry, threads, inference)
        if inference is not None and config.pinned_references:
            server.tasks.append(asyncio.create_task(_begin(server.traffic, inference, say)))
        else:
            await server.traffic.begin()
        server.metrics_page = page
        undo.pop_all()
    return server


async def _listen(
    config: Config,
    gate: Gate,
    interceptor: CallInterceptor,
    registry: Registry,
    threads: Threads,
    inference: Inference | None,
) -> Server:
    listener = Listener(interceptor, max_message_bytes=config.max_message_bytes)
    traffic = Traffic(gate, listener)
    address = await listener.open(
        config.host,
        config.port,
        _services(config, registry, threads, inference, traffic),
        with_reflection=config.reflection,
    )
    server = Server(config, address, registry, inference, gate, listener, traffic, threads)
    if inference is not None:
        inference.bridge.on_engine_stopped = server.engine_stopped
        inference.inside.pulse.is_drained = lambda: traffic.is_drained
        traffic.on_change = inference.inside.pulse.nudge
        server.tasks += inference.follow(address)
    if config.has_role("registry"):
        controller = RolloutController(
            registry, threads, _server_id(), interval_s=config.follow_interval_s
        )
        server.tasks.append(asyncio.create_task(controller.run()))
        server.tasks.append(asyncio.create_task(tell_store(registry, threads)))
    return server


def _authenticator(config: Config) -> Authenticator:
    callers: tuple[Caller, ...] = ()
    if config.callers_file != Path():
        callers = read_callers(config.callers_file, config.project)
    return Authenticator(config.read_token(), config.project, callers)


async def _begin(traffic: Traffic, inference: Inference, say: Say) -> None:
    """Be ready once everything is resident that was to be; say what that waits for."""
    pins = inference.inside.pins
    await pins.all_tried.wait()
    for problem in pins.problems():
        say(problem)
    await pins.all_resident.wait()
    await traffic.begin()


def _services(
    config: Config,
    registry: Registry,
    threads: Threads,
    inference: Inference | None,
    traffic: Traffic,
) -> dict[str, Register]:
    base = None if inference is None else inference.identity.base
    limits = limits_of(config, base, Limits().max_blob_bytes)
    server = ServerService(
        None if inference is None else inference.inside, registry, threads, limits, traffic
    )
    services: dict[str, Register] = {
        "loradock.v1.ServerService": partial(
            server_service_pb2_grpc.add_ServerServiceServicer_to_server, server
        )
    }
    if config.has_role("registry"):
        services |= _registry_services(registry, threads, Doctor(config, registry, base))
    if inference is not None:
        services["loradock.v1.InferenceService"] = partial(
            inference_service_pb2_grpc.add_InferenceServiceServicer_to_server, inference.service
        )
    return services


def _absent(config: Config) -> dict[str, type[Exception]]:
    """Say which services processes of another role have, and by what they are refused here."""
    absent: dict[str, type[Exception]] = {}
    if not config.has_role("inference"):
        absent["loradock.v1.InferenceService"] = NoEngine
    if not config.has_role("registry"):
        absent |= dict.fromkeys(REGISTRY_SERVICES, NoRegistry)
    return absent


def _registry_services(registry: Registry, threads: Threads, doctor: Doctor) -> dict[str, Register]:
    transfers = BlobTransfers(registry, threads)
    return {
        "loradock.v1.RegistryService": partial(
            registry_service_pb2_grpc.add_RegistryServiceServicer_to_server,
            RegistryService(registry, threads, transfers),
        ),
        "loradock.v1.AdminService": partial(
            admin_service_pb2_grpc.add_AdminServiceServicer_to_server,
            AdminService(registry, threads, doctor),
        ),
        "loradock.v1.AliasService": partial(
            alias_service_pb2_grpc.add_AliasServiceServicer_to_server,
            AliasService(registry, threads, FollowWait(registry, threads)),
        ),
        "loradock.v1.RolloutService": partial(
            rollout_service_pb2_grpc.add_RolloutServiceServicer_to_server,
            RolloutService(registry, threads),
        ),
        "loradock.v1.EvaluationService": partial(
            evaluation_service_pb2_grpc.add_EvaluationServiceServicer_to_server,
            EvaluationService(registry, threads),
        ),
    }


def _server_id() -> str:
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
