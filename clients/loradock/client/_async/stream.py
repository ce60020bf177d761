"""An answer as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Protocol, Self

import grpc

from loradock.client._errors import Cancelled, LoradockError, ServerError
from loradock.client._spans import CallSpan
from loradock.client._values.inference import Answerer, Generation, TextChunk
from loradock.client._wire.errors import error_of
from loradock.client._wire.inference import answerer_of, chunk_of, stitched
from loradock.v1 import inference_service_pb2 as wire


class Call(Protocol):
    """A running call."""

    def __aiter__(self) -> AsyncIterator[wire.StreamGenerateResponse]:
        """Give what comes."""
        ...

    def cancel(self) -> bool:
        """Stop it."""
        ...


class AsyncTextStream:
    """An iterator over an answer's chunks, and a context manager that cancels what is not read.

    On entry, or with the first chunk, `answerer` is known. Once all chunks are read, `generation`
    is the whole answer. One reader; `cancel` may come from anywhere.
    """

    def __init__(self, call: Call, request_id: str, span: CallSpan) -> None:
        self._call = call
        self._span = span
        self._events = call.__aiter__()
        self._request_id = request_id
        self._answerer: Answerer | None = None
        self._chunks: list[TextChunk] = []
        self._tail: wire.StreamTail | None = None
        self._is_cancelled = False

    async def __aenter__(self) -> Self:
        await self._read_head()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._tail is None:
            self.cancel()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> TextChunk:
        await self._read_head()
        event = await self._next_event() if self._tail is None else None
        if event is None:
            raise StopAsyncIteration
        if event.WhichOneof("event") == "tail":
            self._tail = event.tail
            await self._next_event()  # the status that follows
            raise StopAsyncIteration
        chunk = chunk_of(event.delta)
        self._chunks.append(chunk)
        return chunk

    @property
    def answerer(self) -> Answerer:
        """Exactly who answers."""
        if self._answerer is None:
            raise LoradockError("who answers is known on entry or with the first chunk")
        return self._answerer

    @property
    def generation(self) -> Generation:
        """The whole answer, once all chunks are read."""
        if self._tail is None:
            raise LoradockError("the answer isn't read to its end; `result()` does so")
        return stitched(self.answerer, self._chunks, self._tail)

    async def result(self) -> Generation:
        """Read on to the end, and give the whole answer."""
        async for _ in self:
            pass
        return self.generation

    def cancel(self) -> None:
        """Stop the answer; the server frees its row within one step."""
        self._is_cancelled = True
        self._call.cancel()
        self._span.end(self._cancelled())

    async def _read_head(self) -> None:
        if self._answerer is not None:
            return
        event = await self._next_event()
        if event is None or event.WhichOneof("event") != "head":
            raise self._broken()
        self._answerer = answerer_of(event.head.answerer)
        self._span.tell(event.head)

    async def _next_event(self) -> wire.StreamGenerateResponse | None:
        if self._is_cancelled:
            raise self._cancelled()
        try:
            event = await self._events.__anext__()
        except StopAsyncIteration:
            if self._answerer is None or self._tail is None:
                raise self._broken() from None
            self._span.end()
            return None
        except grpc.RpcError as failure:
            if self._is_cancelled:
                raise self._cancelled() from None
            error = error_of(failure, self._request_id)
            self._span.end(error)
            raise error from None
        except asyncio.CancelledError:
            if self._is_cancelled:
                raise self._cancelled() from None
            raise
        return event

    def _cancelled(self) -> Cancelled:
        return Cancelled(
            "the stream was cancelled", reason="CANCELLED", request_id=self._request_id
        )

    def _broken(self) -> ServerError:
        error = ServerError(
            "the stream ended without its head or tail",
            reason="INTERNAL",
            request_id=self._request_id,
        )
        self._span.end(error)
        return error
