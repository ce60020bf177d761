"""One channel and the one way of calling over it: deadline, request id, token, typed errors."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Protocol, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from loradock.client._channel import Token
from loradock.client._errors import (
    ClientClosed,
    DeadlineExceeded,
    InvalidRequest,
    LoradockError,
    PreconditionFailed,
)
from loradock.client._policy import deadline_s
from loradock.client._spans import CallSpan
from loradock.client._wire.errors import error_of
from loradock.v1.registry_service_pb2 import ListBaseModelsRequest
from loradock.v1.registry_service_pb2_grpc import RegistryServiceStub

WHY_S = 2.0  # for asking a server why it does not take a call

RequestT = TypeVar("RequestT", bound=Message)
ResponseT = TypeVar("ResponseT")
PageT = TypeVar("PageT", bound="Page")
ItemT = TypeVar("ItemT")
ValueT = TypeVar("ValueT")


class Page(Protocol):
    """A response to a list request."""

    @property
    def next_page_token(self) -> str:
        """Tell where the next page begins; empty on the last."""
        ...


class AsyncCalls:
    """What every group of methods calls through. Safe to share."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        *,
        project: str,
        token: Token | None,
        timeout_s: float | None,
        to_any: AsyncCalls | None = None,
    ) -> None:
        """Call over a channel; `to_any` of its servers where health has no good word for one."""
        self.channel = channel
        self.project = project
        self._token = token
        self._to_any = to_any
        self._timeout_s = timeout_s
        self._is_closed = False

    @property
    def has_limit(self) -> bool:
        """Whether the caller gave every call a time of its own."""
        return self._timeout_s is not None

    async def close(self) -> None:
        """Close the channel; what runs is cancelled. Again is harmless."""
        self._is_closed = True
        await self.channel.close()

    async def unary(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[RequestT, ResponseT],
        request: RequestT,
        *,
        timeout_s: float | None = None,
        longer_s: float = 0.0,
        request_id: str | None = None,
    ) -> ResponseT:
        """Call, and give the response or raise the typed error."""
        self.check_open()
        request_id = stamp(request, request_id)
        name = request.DESCRIPTOR.name.removesuffix("Request")
        deadline = self.deadline_s(name, timeout_s) + longer_s
        with CallSpan(name, request_id) as span:
            metadata = self.metadata(request_id) + span.metadata
            try:
                response = await method(request, timeout=deadline, metadata=metadata)
            except grpc.RpcError as failure:
                raise await self._error_of(failure, request_id) from None
            span.tell(response)
        return response

    async def upload(
        self,
        method: grpc.aio.StreamUnaryMultiCallable[RequestT, ResponseT],
        requests: Iterator[RequestT],
        *,
        name: str,
        timeout_s: float,
    ) -> ResponseT:
        """Send a stream, and give the response."""
        self.check_open()
        request_id = new_request_id()
        deadline = _some_time(timeout_s if self._timeout_s is None else self._timeout_s)
        with CallSpan(name, request_id) as span:
            metadata = self.metadata(request_id) + span.metadata
            try:
                return await method(requests, timeout=deadline, metadata=metadata)
            except grpc.RpcError as failure:
                raise await self._error_of(failure, request_id) from None

    async def download(
        self,
        method: grpc.aio.UnaryStreamMultiCallable[RequestT, ResponseT],
        request: RequestT,
        *,
        timeout_s: float,
    ) -> AsyncIterator[ResponseT]:
        """Give a stream's messages as they come."""
        self.check_open()
        request_id = new_request_id()
        deadline = _some_time(timeout_s if self._timeout_s is None else self._timeout_s)
        name = request.DESCRIPTOR.name.removesuffix("Request")
        with CallSpan(name, request_id) as span:
            metadata = self.metadata(request_id) + span.metadata
            try:
                call = method(request, timeout=deadline, metadata=metadata)
                async for response in call:  # noqa: UP028 (of the synchronous twin)
                    yield response
            except grpc.RpcError as failure:
                raise await self._error_of(failure, request_id) from None

    async def pages(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[RequestT, PageT],
        request: RequestT,
        items: Callable[[PageT], Iterable[ItemT]],
        value_of: Callable[[ItemT], ValueT],
    ) -> AsyncIterator[ValueT]:
        """Give the items of all pages; the next page is asked for when it is needed."""
        while True:
            response = await self.unary(method, request)
            for item in items(response):
                yield value_of(item)
            if not response.next_page_token:
                return
            _set(request, "page_token", response.next_page_token)

    async def _error_of(self, failure: grpc.RpcError, request_id: str) -> LoradockError:
        """Give the typed error; where no server is fit for a call, what one that is there says."""
        error = error_of(failure, request_id)
        if self._to_any is not None and "backend unhealthy" in error.message:  # so gRPC says it
            list_bases = RegistryServiceStub(self._to_any.channel).ListBaseModels
            try:
                request = ListBaseModelsRequest(page_size=1)
                await self._to_any.unary(list_bases, request, timeout_s=WHY_S)
            except PreconditionFailed as refusal:  # it has no registry
                return refusal
            except LoradockError:
                pass  # it takes no calls at all now
        return error

    def check_open(self) -> None:
        """Refuse to call over a channel that was closed."""
        if self._is_closed:
            raise ClientClosed("this client is closed", reason="CLIENT_CLOSED")

    def deadline_s(self, method: str, timeout_s: float | None) -> float:
        """Choose a deadline: the call's, else the client's, else the method's own."""
        given = self._timeout_s if timeout_s is None else timeout_s
        return _some_time(deadline_s(method) if given is None else given)

    def metadata(self, request_id: str) -> tuple[tuple[str, str], ...]:
        """Give what goes beside a request."""
        if self._token is None:
            return (("x-request-id", request_id),)
        token = self._token if isinstance(self._token, str) else self._token()
        return (("x-request-id", request_id), ("authorization", f"Bearer {token}"))


def _some_time(deadline: float) -> float:
    """Refuse a deadline that has passed already: gRPC may still send it, and get an answer."""
    if not deadline > 0:
        raise DeadlineExceeded(
            f"there is no time for the call: its limit is {deadline:g} s",
            reason="DEADLINE_EXCEEDED",
        )
    return deadline


def new_request_id() -> str:
    """Make an id for one request and all its retries."""
    return str(uuid.uuid4())


def request_id_of(given: str | None) -> str:
    """Give the caller's id, or a new one. It goes into a header, so it is of plain letters."""
    if not given:
        return new_request_id()
    if not (given.isascii() and given.isprintable()):
        raise InvalidRequest(
            f"request_id: {given!r} has characters that are not printable ASCII",
            reason="INVALID_FIELD",
            metadata={"field": "request_id"},
        )
    return given


def stamp(request: Message, request_id: str | None) -> str:
    """Give a request its id, in the request itself if it has the field."""
    request_id = request_id_of(request_id)
    if "request_id" in request.DESCRIPTOR.fields_by_name:
        _set(request, "request_id", request_id)
    return request_id


def _set(message: Message, field: str, value: str) -> None:
    setattr(message, field, value)
