"""A real server in the test's own event loop, and a stock gRPC client of it."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from loradock.registry.resources import Residency
from loradock.server.answering.inference import Inference
from loradock.server.app import Say, Server, start_server
from loradock.server.config import Config
from loradock.server.services.principal import Authenticator
from loradock.v1 import (
    alias_service_pb2,
    alias_service_pb2_grpc,
    evaluation_service_pb2_grpc,
    inference_service_pb2,
    inference_service_pb2_grpc,
    registry_service_pb2,
    registry_service_pb2_grpc,
    resources_pb2,
    server_service_pb2,
    server_service_pb2_grpc,
)

BASE = "tiny"
TIMEOUT_S = 30.0
inference = inference_service_pb2


class Running:
    """A running server with a client of each of its services."""

    def __init__(self, server: Server, channel: grpc.aio.Channel) -> None:
        self.server = server
        self.channel = channel
        self.registry = registry_service_pb2_grpc.RegistryServiceStub(self.channel)
        self.aliases = alias_service_pb2_grpc.AliasServiceStub(self.channel)
        self.evaluations = evaluation_service_pb2_grpc.EvaluationServiceStub(self.channel)
        self.inference = inference_service_pb2_grpc.InferenceServiceStub(self.channel)
        self.servers = server_service_pb2_grpc.ServerServiceStub(self.channel)

    @property
    def parts(self) -> Inference:
        """The parts of its half that answers."""
        assert self.server.inference is not None
        return self.server.inference

    @property
    def residencies(self) -> dict[str, Residency]:
        """Every version's place, by digest."""
        return {place.digest: place for place in self.parts.inside.residencies.report()}

    @property
    def is_idle(self) -> bool:
        """Whether no row runs or waits."""
        state = self.parts.engine.state()
        return not state.num_running and not state.num_waiting

    async def upload(self, content: bytes, chunk: int = 1 << 20) -> resources_pb2.Blob:
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        blob = resources_pb2.Blob(digest=digest, size_bytes=len(content))
        header = registry_service_pb2.UploadBlobHeader(parent="projects/default", blob=blob)

        async def parts() -> AsyncIterator[registry_service_pb2.UploadBlobRequest]:
            yield registry_service_pb2.UploadBlobRequest(header=header)
            for start in range(0, len(content), chunk):
                piece = content[start : start + chunk]
                yield registry_service_pb2.UploadBlobRequest(chunk=piece)

        response = await self.registry.UploadBlob(parts(), timeout=TIMEOUT_S)
        return response.blob

    async def publish(
        self, adapter: str, folder: Path, *, base: str = BASE, **profile: Any
    ) -> resources_pb2.AdapterVersion:
        """Publish what PEFT would have written into a folder."""
        weights = await self.upload((folder / "adapter_model.safetensors").read_bytes())
        config = await self.upload((folder / "adapter_config.json").read_bytes())
        request = registry_service_pb2.PublishVersionRequest(
            parent=f"projects/default/adapters/{adapter}",
            base_model=f"baseModels/{base}",
            delta=resources_pb2.Delta(weights=weights, config=config),
            profile=resources_pb2.Profile(**profile),
        )
        response = await self.registry.PublishVersion(request, timeout=TIMEOUT_S)
        return response.version

    async def alias(self, adapter: str, name: str = "production") -> resources_pb2.Alias:
        request = alias_service_pb2.GetAliasRequest(name=alias_name(adapter, name))
        return (await self.aliases.GetAlias(request, timeout=TIMEOUT_S)).alias

    async def set_alias(
        self, adapter: str, number: int, *, etag: str = "", wait_s: float | None = None
    ) -> alias_service_pb2.SetAliasResponse:
        request = alias_service_pb2.SetAliasRequest(
            name=alias_name(adapter),
            version_number=number,
            etag=etag,
            reason="a test",
            wait=None if wait_s is None else duration_pb2.Duration(nanos=0, seconds=int(wait_s)),
        )
        return await self.aliases.SetAlias(request, timeout=TIMEOUT_S)

    async def roll_back(self, adapter: str) -> alias_service_pb2.RollbackAliasResponse:
        etag = (await self.alias(adapter)).etag
        request = alias_service_pb2.RollbackAliasRequest(
            name=alias_name(adapter), etag=etag, reason="a test"
        )
        return await self.aliases.RollbackAlias(request, timeout=TIMEOUT_S)

    async def ask(
        self,
        adapter: str | None,
        text: str = "hello there",
        *,
        timeout: float = TIMEOUT_S,
        metadata: tuple[tuple[str, str], ...] = (),
        **sampling: Any,
    ) -> inference_service_pb2.GenerateResponse:
        """Ask an adapter, or the base (None)."""
        request = inference.GenerateRequest(
            target=target_of(adapter),
            prompt=inference.Prompt(text=text),
            sampling=inference.Sampling(**{"max_tokens": 12, **sampling}),
        )
        return await self.inference.Generate(request, timeout=timeout, metadata=metadata)

    def stream(
        self, adapter: str | None, text: str = "hello there", **sampling: Any
    ) -> grpc.aio.UnaryStreamCall[Any, inference_service_pb2.StreamGenerateResponse]:
        request = inference.StreamGenerateRequest(
            target=target_of(adapter),
            prompt=inference.Prompt(text=text),
            sampling=inference.Sampling(**{"max_tokens": 12, **sampling}),
        )
        return self.inference.StreamGenerate(request, timeout=TIMEOUT_S)

    async def look(self) -> server_service_pb2.GetServerResponse:
        """Look at the server."""
        request = server_service_pb2.GetServerRequest()
        return await self.servers.GetServer(request, timeout=TIMEOUT_S)


def target_of(adapter: str | None) -> inference_service_pb2.Target:
    return inference.Target(base=True) if adapter is None else inference.Target(adapter=adapter)


def alias_name(adapter: str, name: str = "production") -> str:
    return f"projects/default/adapters/{adapter}/aliases/{name}"


@asynccontextmanager
async def running(
    base: Path | str,
    folder: Path,
    authenticator: Authenticator | None = None,
    *,
    say: Say = lambda line: None,
    **settings: Any,
) -> AsyncIterator[Running]:
    """Start a server over `folder`, and stop it afterwards."""
    defaults: dict[str, Any] = {
        "model": str(base),
        "model_name": BASE,
        "dtype": "float32",
        "threads": 1,
        "port": 0,
        "data_dir": folder,
        "drain_grace_s": 10.0,
    }
    config = Config(**(defaults | settings))
    server = await start_server(config, say, authenticator=authenticator)
    try:
        async with grpc.aio.insecure_channel(server.address) as channel:
            yield Running(server, channel)
    finally:
        await server.stop()


async def until(holds: Callable[[], object], timeout_s: float = 20.0) -> None:
    """Wait until something holds; the condition may be async."""
    give_up_at = time.monotonic() + timeout_s
    while True:
        held = holds()
        if asyncio.iscoroutine(held):
            held = await held
        if held:
            return
        assert time.monotonic() < give_up_at, "it never came to hold"
        await asyncio.sleep(0.01)


async def refusal_of(call: Awaitable[object]) -> grpc.aio.AioRpcError:
    """Give the error of a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def reason_of(error: grpc.aio.AioRpcError) -> str:
    return str(info_of(error).reason)


def info_of(error: grpc.aio.AioRpcError) -> error_details_pb2.ErrorInfo:
    """Give the one ErrorInfo of a failed call."""
    status = rpc_status.from_call(error)
    found = [d for d in status.details if d.Is(error_details_pb2.ErrorInfo.DESCRIPTOR)]
    assert len(found) == 1, error
    info = error_details_pb2.ErrorInfo()
    found[0].Unpack(info)
    return info
