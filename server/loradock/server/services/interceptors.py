"""What surrounds every call: its id, who calls, until when, and how its errors leave.

One interceptor, so that the order of these is written in one place. Servicers raise; only here is
an exception turned into a status.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import DecodeError, Message

from loradock.registry.errors import InvalidArgument
from loradock.server.errors import DeadlineExceeded, MessageTooLarge
from loradock.server.gate import Gate
from loradock.server.services.call import Call, current_call, enter_call
from loradock.server.services.principal import Authenticator
from loradock.server.services.status import INTERNAL, row_of, status_of, trailers_of
from loradock.server.telemetry import spans
from loradock.server.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

REQUEST_ID_KEY = "x-request-id"
MAX_REQUEST_ID_CHARS = 128
LAST_WORD_S, LAST_WORD_SHARE = 0.05, 0.02  # of a deadline: to say that it passed, and where
OPEN_SERVICES = ("/grpc.health.v1.",)
STEERING = ("/loradock.v1.ServerService/", "/loradock.v1.AdminService/Diagnose")
INFERENCE = "/loradock.v1.InferenceService/"
# What every log line of an inference request says, also before it is known or when it never is.
UNRESOLVED = dict.fromkeys(("adapter", "version", "digest", "alias", "arm"))
SEND_INSTEAD = (
    "send a shorter prompt, or fewer or smaller items in one call; weights go up by UploadBlob, "
    "in chunks"
)
ASK_INSTEAD = "ask for less: a smaller page_size, fewer continuations; bytes come by DownloadBlob"

if TYPE_CHECKING:  # generic in annotations only
    Handler = grpc.RpcMethodHandler[Any, Any]
    Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class _Unreadable:
    """Stands for a request that could not be read, until its call has begun and can be refused."""

    error: Exception


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every method of the project's services, and reflection; leaves health alone."""

    def __init__(
        self,
        authenticator: Authenticator,
        gate: Gate,
        *,
        max_deadline_s: float,
        max_message_bytes: int,
        facts: Mapping[str, object],
        metrics: Metrics,
        absent: Mapping[str, type[Exception]] | None = None,
    ) -> None:
        """Say `facts` on every log line of a call, and count it.

        `absent` services are other processes': the error that says so, by name.
        """
        self._authenticator = authenticator
        self._gate = gate
        self._max_deadline_s = max_deadline_s
        self._max_message_bytes = max_message_bytes
        self._facts = facts
        self._metrics = metrics
        self._absent = absent or {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Give the method's handler, wrapped."""
        handler = await continuation(handler_call_details)
        absence = self._absent.get(handler_call_details.method.strip("/").partition("/")[0])
        if absence is not None:
            handler = _refusal(absence)
        if handler is None or handler_call_details.method.startswith(OPEN_SERVICES):
            return handler
        return self._wrapped(handler, handler_call_details)

    def _wrapped(self, handler: Handler, details: grpc.HandlerCallDetails) -> Handler:
        answer: Any = (
            handler.unary_unary
            or handler.unary_stream
            or handler.stream_unary
            or handler.stream_stream
        )

        async def unary(request: object, context: Context) -> object:
            async with self._call(details, context):
                response = await answer(self._checked(request), context)
                self._check_response(response)
                return response

        async def stream(request: object, context: Context) -> None:
            async with (
                self._call(details, context),
                aclosing(answer(self._checked(request), context)) as responses,
            ):
                async for response in responses:
                    self._check_response(response)
                    with current_call().at("stream"):
                        await context.write(response)

        kind = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }[handler.request_streaming, handler.response_streaming]
        behaviour: Any = stream if handler.response_streaming else unary
        return kind(
            behaviour, self._deserializer(handler.request_deserializer), handler.response_serializer
        )

    @asynccontextmanager
    async def _call(
        self, details: grpc.HandlerCallDetails, context: Context
    ) -> AsyncIterator[None]:
        metadata = {key: v for key, v in context.invocation_metadata() or () if isinstance(v, str)}
        request_id = _request_id(metadata.get(REQUEST_ID_KEY, ""))
        context.set_trailing_metadata(((REQUEST_ID_KEY, request_id),))
        with spans.span_of_call(details.method, metadata) as told:
            known = {**self._facts, **told}
            if details.method.startswith(INFERENCE):
                known |= UNRESOLVED
            try:
                async with self._answered(details.method, metadata, request_id, known, context):
                    yield
            finally:
                told |= known

    @asynccontextmanager
    async def _answered(
        self,
        method: str,
        metadata: Mapping[str, str],
        request_id: str,
        known: dict[str, object],
        context: Context,
    ) -> AsyncIterator[None]:
        """Let a call in, turn what it raises into a status, and tell of its end."""
        call: Call | None = None
        started = time.monotonic()
        reason = "OK"
        try:
            principal = self._authenticator.principal(metadata)
            allowed_s = self._allowed_s(context.time_remaining())
            call = Call(method, request_id, principal, started + allowed_s, started, known)
            enter_call(call)
            with self._gate.passage(is_steering=method.startswith(STEERING)):
                async with _until(allowed_s, call), _interruptible(call):
                    yield
        except asyncio.CancelledError:
            reason = "CANCELLED"
            raise
        except grpc.aio.AbortError:
            reason = "ABORTED"
            raise
        except grpc.aio.InternalError as error:  # nobody is at the other end any more
            reason = "CANCELLED"
            raise asyncio.CancelledError from error
        except Exception as error:
            reason = row_of(error).reason
            await _abort(context, error, request_id)
        finally:
            seconds = time.monotonic() - started
            known |= {"method": method, "request_id": request_id, "status": reason}
            log.info("answered", extra={"facts": {**known, "seconds": round(seconds, 6)}})
            is_inference = method.startswith(INFERENCE)
            self._metrics.call_ended(method, reason, seconds, call, is_inference=is_inference)

    def _allowed_s(self, asked_s: float | None) -> float:
        """Give what a call may take: a little less than asked, so that the refusal is heard."""
        if asked_s is None:
            return self._max_deadline_s
        return min(asked_s - min(LAST_WORD_S, asked_s * LAST_WORD_SHARE), self._max_deadline_s)

    def _checked(self, request: object) -> object:
        """Raise what was wrong with a request, now that its call has begun."""
        if isinstance(request, _Unreadable):
            raise request.error
        return self._checked_all(request) if isinstance(request, AsyncIterator) else request

    async def _checked_all(self, requests: AsyncIterator[object]) -> AsyncIterator[object]:
        async for request in requests:
            yield self._checked(request)

    def _check_response(self, response: Message) -> None:
        size = response.ByteSize()
        if size > self._max_message_bytes:
            raise MessageTooLarge("response", size, self._max_message_bytes, ASK_INSTEAD)

    def _deserializer(
        self, deserialize: Callable[[bytes], object] | None
    ) -> Callable[[bytes], object]:
        def read(content: bytes) -> object:
            if len(content) > self._max_message_bytes:
                limit = self._max_message_bytes
                return _Unreadable(MessageTooLarge("request", len(content), limit, SEND_INSTEAD))
            try:
                return content if deserialize is None else deserialize(content)
            except DecodeError as error:
                return _Unreadable(InvalidArgument("request", f"can't be decoded: {error}"))

        return read


def _refusal(error: type[Exception]) -> Handler:
    """Make the handler of any method that is not served here."""

    async def refuse(requests: object, context: Context) -> AsyncIterator[object]:
        raise error
        yield  # which makes it the stream that it is handled as

    return grpc.stream_stream_rpc_method_handler(refuse)


@asynccontextmanager
async def _until(seconds: float, call: Call) -> AsyncIterator[None]:
    timer = asyncio.timeout(seconds)
    try:
        async with timer:
            yield
    except TimeoutError as error:
        if timer.expired():
            raise DeadlineExceeded(call.stage) from error
        raise


@asynccontextmanager
async def _interruptible(call: Call) -> AsyncIterator[None]:
    try:
        yield
    except asyncio.CancelledError:
        if call.interruption is None or call.task is None:
            raise
        call.task.uncancel()
        raise call.interruption from None


async def _abort(context: Context, error: Exception, request_id: str) -> None:
    if row_of(error) is INTERNAL:
        log.error("unexpected error", exc_info=error)
    status = status_of(error, request_id)
    trailers = (*trailers_of(status), (REQUEST_ID_KEY, request_id))
    try:
        await context.abort(row_of(error).code, status.message, trailers)
    except grpc.aio.InternalError as gone:  # nobody is at the other end any more
        raise asyncio.CancelledError from gone


def _request_id(given: str) -> str:
    if 0 < len(given) <= MAX_REQUEST_ID_CHARS and given.isprintable():
        return given
    return uuid.uuid4().hex
