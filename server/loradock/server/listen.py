"""The gRPC server itself: its options, its services, health and reflection."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Mapping

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from loradock.server.errors import StartRefused
from loradock.server.services.interceptors import CallInterceptor

# Beyond max_message_bytes but below this many times that, a message is refused with details of our
# own; above, by gRPC itself, in the same status and with the numbers.
HARD_LIMIT_FACTOR = 4
MIN_PING_INTERVAL_MS = 30_000  # the SDK pings every 60 s while calls run

# What health tells of only once a server is ready: its inference, and all of it together. What it
# waits for may have to come by its registry.
OF_THE_READY = ("", "loradock.v1.InferenceService")

Register = Callable[[grpc.aio.Server], None]


async def refuse_taken_port(host: str, port: int) -> None:
    """Raise StartRefused if nothing could listen there, before anything else is begun."""
    if port:
        await asyncio.to_thread(_probe, host.strip("[]"), port)


def _probe(host: str, port: int) -> None:
    try:
        places = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise StartRefused(f"can't listen on {host}:{port}: {error.strerror}") from error
    refusals = [refusal for family, *_, at in places if (refusal := _bind_error(family, at))]
    taken = [refusal for refusal in refusals if refusal.errno == errno.EADDRINUSE]
    if taken or len(refusals) == len(places):
        why = (taken or refusals)[0]
        hint = "; give another --port, 0 for a free one" if taken else ""
        raise StartRefused(f"can't listen on {host}:{port}: {why.strerror}{hint}") from why


def _bind_error(family: int, address: tuple[object, ...]) -> OSError | None:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            if os.name == "posix":  # as gRPC does: a port that was just let go is free
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return error
    return None


class Listener:
    """One port with its services. Inference serves, as health tells it, only when told so."""

    def __init__(self, interceptor: CallInterceptor, *, max_message_bytes: int) -> None:
        self._server = grpc.aio.server(
            interceptors=(interceptor,),
            options=(
                ("grpc.max_receive_message_length", max_message_bytes * HARD_LIMIT_FACTOR),
                ("grpc.max_send_message_length", max_message_bytes),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", MIN_PING_INTERVAL_MS),
                ("grpc.so_reuseport", 0),
            ),
        )
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._names: tuple[str, ...] = ()

    async def open(
        self, host: str, port: int, services: Mapping[str, Register], *, with_reflection: bool
    ) -> str:
        """Listen; give the address, with the port that was taken."""
        for register in services.values():
            register(self._server)
        self._names = ("", *services)
        await self.say_serving(True, is_ready=False)
        if with_reflection:
            shown = (*services, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(shown, self._server)
        shown_host = f"[{host}]" if ":" in host else host
        try:
            taken = self._server.add_insecure_port(f"{shown_host}:{port}")
        except RuntimeError as error:
            raise StartRefused(f"can't listen on {shown_host}:{port}: {error}") from error
        await self._server.start()
        return f"{shown_host}:{taken}"

    async def say_serving(self, is_serving: bool, *, is_ready: bool = True) -> None:
        """Tell health whether this server takes part in traffic, and if it is ready, in all."""
        status = health_pb2.HealthCheckResponse
        for name in self._names:
            serves = is_serving and (is_ready or name not in OF_THE_READY)
            await self._health.set(name, status.SERVING if serves else status.NOT_SERVING)

    async def say_not_serving(self) -> None:
        """Tell health that this server is going, for good."""
        await self._health.enter_graceful_shutdown()

    async def close(self, grace_s: float) -> None:
        """Stop listening; what still runs after the grace is cancelled."""
        await self._server.stop(grace_s)
