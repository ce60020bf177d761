"""A real gRPC server that answers as a test says, and remembers how it was called."""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import methods
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

METHODS = {f"/{m.containing_service.full_name}/{name}": m for name, m in methods.METHODS.items()}
Answer = bytes | Message | list[Message] | Callable[[bytes, grpc.ServicerContext], Any]


@dataclass(frozen=True)
class Received:
    """How one call came in."""

    method: str
    remaining_s: float | None
    metadata: dict[str, str]
    requests: tuple[bytes, ...]


@dataclass
class ScriptedServer:
    """Answers each method with what is queued for it, then with an empty response."""

    methods = METHODS
    address: str = ""
    calls: list[Received] = field(default_factory=list)
    answers: dict[str, deque[Answer]] = field(default_factory=lambda: defaultdict(deque))
    ended: threading.Event = field(default_factory=threading.Event)  # a test's to set

    def answer(self, method: str, *answers: Answer) -> None:
        self.answers[method].extend(answers)

    def received(self, method: str) -> list[Received]:
        return [call for call in self.calls if call.method == method]

    def next_answer(self, method: str) -> Answer:
        return self.answers[method].popleft() if self.answers[method] else b""

    @staticmethod
    def refuse(code: grpc.StatusCode, text: str = "no", *details: Message) -> Answer:
        """Make a refusal as Loradock's server does: with details in the trailing metadata."""

        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            status = status_pb2.Status(code=code.value[0], message=text)
            for detail in details:
                status.details.add().Pack(detail)
            context.abort_with_status(rpc_status.to_status(status))

        return answer

    @staticmethod
    def error_info(reason: str, **metadata: str) -> error_details_pb2.ErrorInfo:
        return error_details_pb2.ErrorInfo(reason=reason, domain="loradock.v1", metadata=metadata)

    def remember(self, method, requests, context) -> None:
        metadata = {key: value for key, value in context.invocation_metadata()}
        self.calls.append(Received(method, context.time_remaining(), metadata, tuple(requests)))


class _Handler(grpc.GenericRpcHandler):
    def __init__(self, server: ScriptedServer) -> None:
        self._server = server

    def service(self, handler_call_details):
        path = handler_call_details.method
        method = METHODS.get(path)
        if method is None:
            return None
        name = path.rpartition("/")[2]

        def unary(request, context):
            requests = tuple(request) if method.client_streaming else (request,)
            self._server.remember(name, requests, context)
            return _content(self._server.next_answer(name), requests, context)

        def stream(request, context):
            self._server.remember(name, (request,), context)
            answer = self._server.next_answer(name)
            if callable(answer):
                yield from answer(request, context)
            elif isinstance(answer, list):
                yield from (message.SerializeToString() for message in answer)

        if method.client_streaming:
            return grpc.stream_unary_rpc_method_handler(unary)
        if method.server_streaming:
            return grpc.unary_stream_rpc_method_handler(stream)
        return grpc.unary_unary_rpc_method_handler(unary)


def _content(answer, requests, context):
    if callable(answer):
        return answer(requests[0], context)
    return answer.SerializeToString() if isinstance(answer, Message) else answer


@contextmanager
def scripted_server(
    credentials: grpc.ServerCredentials | None = None,
) -> Iterator[ScriptedServer]:
    scripted = ScriptedServer()
    server = grpc.server(futures.ThreadPoolExecutor(8), handlers=[_Handler(scripted)])
    port = (
        server.add_insecure_port("127.0.0.1:0")
        if credentials is None
        else server.add_secure_port("127.0.0.1:0", credentials)
    )
    scripted.address = f"127.0.0.1:{port}"
    server.start()
    try:
        yield scripted
    finally:
        server.stop(0).wait()


@pytest.fixture
def scripted() -> Iterator[ScriptedServer]:
    """A server to script, over plain text."""
    with scripted_server() as server:
        yield server
